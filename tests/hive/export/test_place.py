"""An export takes nobody's place, and is whole or not there."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hive.errors import UserError
from hive.export.place import SEAL, free_place, may_replace, replacing, save_weights, seal


def export(folder: Path, content: str = "card") -> None:
    with replacing(folder, "The tower") as temporary:
        (temporary / "README.md").write_text(content)
        (temporary / "inner").mkdir()
        (temporary / "inner" / "notes").write_text("notes")
        save_file({"x": torch.zeros(1)}, temporary / "model.safetensors", metadata={SEAL: seal(temporary)})


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".tower-0123abcd-older").mkdir()
    (tmp_path / ".tower-mine").mkdir()
    (tmp_path / "tower").mkdir()
    export(tmp_path / "tower")
    assert may_replace(tmp_path / "tower")
    export(tmp_path / "tower", "another")
    assert (tmp_path / "tower" / "README.md").read_text() == "another"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tower-mine", "tower"]
    assert free_place(tmp_path / "tower") == tmp_path / "tower"


def folder_with_a_readme(path: Path) -> None:
    path.mkdir()
    (path / "README.md").write_text("mine")


def file(path: Path) -> None:
    path.write_text("mine")


def link_to_an_export(path: Path) -> None:
    export(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


def export_with_an_edited_card(path: Path) -> None:
    export(path)
    (path / "README.md").write_text("my own words")


def export_with_a_file_more(path: Path) -> None:
    export(path)
    (path / "inner" / "thesis.txt").touch()


def export_with_a_link_more(path: Path) -> None:
    export(path)
    (path / "more.safetensors").symlink_to("model.safetensors")


def export_saved_again_by_another_program(path: Path) -> None:
    export(path)
    save_file({"x": torch.ones(1)}, path / "model.safetensors", metadata={"format": "pt"})


def export_without_its_weights(path: Path) -> None:
    export(path)
    (path / "model.safetensors").write_bytes(b"")


FOREIGN: list[Callable[[Path], None]] = [
    folder_with_a_readme, file, link_to_an_export, broken_link, export_with_an_edited_card,
    export_with_a_file_more, export_with_a_link_more, export_saved_again_by_another_program, export_without_its_weights,
]  # fmt: skip


@pytest.mark.parametrize("put", FOREIGN, ids=lambda put: put.__name__)
def test_anything_else_stays_and_the_export_goes_beside_it(tmp_path: Path, put: Callable[[Path], None]) -> None:
    put(tmp_path / "tower")
    before = content(tmp_path)
    place = free_place(tmp_path / "tower")
    assert place == tmp_path / "tower-2"
    with pytest.raises(UserError, match="tower holds something else than an export: move it away"):
        export(tmp_path / "tower")
    export(place)
    assert free_place(tmp_path / "tower") == place  # which is replaced the next time
    assert content(tmp_path).items() >= before.items()
    (place / "README.md").unlink()
    assert free_place(tmp_path / "tower") == tmp_path / "tower-3"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing keeps root from writing")
def test_a_folder_without_the_right_to_write_stays(tmp_path: Path) -> None:
    export(tmp_path / "tower")
    (tmp_path / "tower").chmod(0o555)
    assert free_place(tmp_path / "tower") == tmp_path / "tower-2"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("computes something else")])
def test_after_an_error_everything_is_as_it_was(tmp_path: Path, error: Exception) -> None:
    export(tmp_path / "tower")
    before = content(tmp_path)

    def fail() -> None:
        with replacing(tmp_path / "tower", "The tower") as temporary:
            (temporary / "half").write_text("half")
            raise error

    with pytest.raises((UserError, RuntimeError), match=str(error.args[-1])):
        fail()
    assert content(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["tower"]


def test_weights_are_the_same_bytes_each_time_and_may_be_read_by_others(tmp_path: Path) -> None:
    """The library shuffles metadata; eight writings would hardly agree by chance."""
    weights = {"b": torch.arange(3.0), "ä": torch.ones(2, 2)}
    metadata = {name: f"{name} \u00fc\u2028" for name in ("format", "hive", "hive.seal", "more")}
    for number in range(8):
        save_weights(weights, tmp_path / str(number), metadata)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    with safe_open(tmp_path / "0", framework="pt") as file:
        assert file.metadata() == metadata
        assert all(torch.equal(file.get_tensor(name), value) for name, value in weights.items())
    (tmp_path / "other").touch()
    assert (tmp_path / "0").stat().st_mode == (tmp_path / "other").stat().st_mode

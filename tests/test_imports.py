"""Every import between our modules points to its own layer or to a lower one, and no modules import in a circle."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LAYERS: tuple[tuple[str, ...], ...] = (
    ("hive_kernels",),
    ("hive",),  # the top-level modules that no row below names
    ("hive.data",),
    ("hive.model",),
    ("hive.optimizer", "hive.stages", "hive.export", "hive.model_folder", "hive.run_folder", "hive.config_file"),
    ("hive.cost",),
    ("hive.train",),
    ("hive.vlm",),
    ("hive.caption", "hive.claim", "hive.efficiency", "hive.evaluate", "hive.maps", "hive.probe", "hive.report"),
)
"""From the lowest to the highest; a module belongs to the longest name that it lies in. Above them all are the
`__main__` modules of hive: commands compose what they need."""


class Arrow(NamedTuple):
    """One of our modules imports another."""

    source: str
    target: str
    place: str
    """File and line."""

    def __str__(self) -> str:
        return f"{self.place}: {self.source} -> {self.target}"


def imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements that can run, those in functions too; under `if TYPE_CHECKING` none does."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield from imports(node)


def arrows(root: Path) -> list[Arrow]:
    """Every arrow between modules of the two packages, once for each line."""
    files = [path for package in ("hive_kernels", "hive") for path in sorted((root / package).rglob("*.py"))]
    dotted = [".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in files]
    trees = {name: ast.parse(path.read_text()) for name, path in zip(dotted, files, strict=True)}
    # A package may offer a function under the name of the package beside it that holds the function.
    offered = {
        f"{package}.{alias.name}"
        for package, tree in trees.items()
        for node in imports(tree)
        if isinstance(node, ast.ImportFrom) and node.module != package
        for alias in node.names
    }
    found: dict[Arrow, None] = {}
    for source, path in zip(dotted, files, strict=True):
        for node in imports(trees[source]):
            place = f"{path.relative_to(root)}:{node.lineno}"
            assert isinstance(node, ast.Import) or not node.level, f"{place}: write the module's whole name"
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for name in (module + alias.name for alias in node.names):
                target = name if name in trees and name not in offered else module.rstrip(".")
                if target in trees and target != source:
                    found[Arrow(source, target, place)] = None
    return list(found)


def layer(module: str) -> int:
    """The module's row in `LAYERS`."""
    if module.startswith("hive.") and module.endswith(".__main__"):
        return len(LAYERS)
    rows = {name: row for row, names in enumerate(LAYERS) for name in names if f"{module}.".startswith(f"{name}.")}
    return rows[max(rows, key=len)]


def upward(found: list[Arrow]) -> list[str]:
    return [str(arrow) for arrow in found if layer(arrow.target) > layer(arrow.source)]


def circle(found: list[Arrow]) -> list[str]:
    """The arrows of one circle of modules; none where there is no circle."""
    graph: dict[str, set[str]] = {}
    for arrow in found:
        graph.setdefault(arrow.source, set()).add(arrow.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        names = error.args[1]  # each is imported by the next
        steps = set(zip(names[1:], names, strict=False))
        return [str(arrow) for arrow in found if arrow[:2] in steps]
    return []


def test_imports_point_down() -> None:
    wrong = upward(arrows(ROOT))
    assert not wrong, "\n".join(["these imports point to a higher layer:", *wrong])


def test_no_modules_import_in_a_circle() -> None:
    wrong = circle(arrows(ROOT))
    assert not wrong, "\n".join(["these imports make a circle:", *wrong])


def test_planted_mistakes_are_found(tmp_path: Path) -> None:
    files = {
        "hive_kernels/__init__.py": "from hive_kernels.gate.api import gate",
        "hive_kernels/gate/__init__.py": "",
        "hive_kernels/gate/api.py": "def gate():\n    from hive_kernels import gate",
        "hive_kernels/flops.py": "import torch, hive.config",
        "hive/config.py": "if TYPE_CHECKING:\n    import hive.maps.draw",
        "hive/train/loop.py": "def end():\n    if True:\n        from hive.maps import draw",
        "hive/train/__main__.py": "import hive.maps.draw",
        "hive/maps/draw.py": "import hive.train.loop, hive.train.__main__\nfrom hive import config",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = arrows(tmp_path)
    assert upward(found) == [
        "hive_kernels/flops.py:1: hive_kernels.flops -> hive.config",
        "hive/maps/draw.py:1: hive.maps.draw -> hive.train.__main__",
        "hive/train/loop.py:3: hive.train.loop -> hive.maps.draw",
    ]
    (tmp_path / "hive/maps/draw.py").write_text("")
    assert circle(arrows(tmp_path)) == [
        "hive_kernels/__init__.py:1: hive_kernels -> hive_kernels.gate.api",
        "hive_kernels/gate/api.py:2: hive_kernels.gate.api -> hive_kernels",
    ]

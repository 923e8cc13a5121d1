"""Files that belong together change together."""

import errno
import os
from pathlib import Path

import pytest

from hive.errors import UserError
from hive.files import replace_files


def test_a_full_disk_changes_none_of_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "a.png", tmp_path / "a.npz"]
    replace_files(dict.fromkeys(files, b"old"))
    flushed: list[int] = []

    def full(handle: int) -> None:
        flushed.append(handle)
        if len(flushed) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_files(dict.fromkeys(files, b"new"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.png": b"old", "a.npz": b"old"}


def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path) -> None:
    """A rename over a device would break it for the whole machine; a named pipe stands for one here."""
    pipe, beside = tmp_path / "pipe", tmp_path / "beside.txt"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="is a folder, a device or a pipe: give the name of a file"):
        replace_files({beside: b"new", pipe: b"new"})
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]

"""Uploads an exported folder to the Hugging Face hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from hive.data.open_source import HUB_NAME
from hive.errors import UserError, first_line


class Hub(Protocol):
    """The two calls of `huggingface_hub.HfApi` that an upload needs."""

    def create_repo(self, repo_id: str, *, private: bool | None = None, exist_ok: bool = False) -> object: ...

    def upload_folder(self, *, repo_id: str, folder_path: str | Path, commit_message: str | None = None) -> object: ...


def check_push(name: str, find_token: Callable[[], str | None]) -> str:
    """The token to upload with; raises `UserError` for a name that no repository can have, or without a token."""
    if not HUB_NAME.fullmatch(name):
        raise UserError(f'--push is "{name}", but it must be a name on the hub, ORG/NAME.')
    token = find_token()
    if not token:
        raise UserError(f"--push {name} needs a token that may write: run `hf auth login`, or set HF_TOKEN.")
    return token


def push(folder: Path, name: str, hub: Hub) -> str:
    """Uploads a folder as the repository `name`, made private where it is new; returns a line that says where it is.

    Raises `UserError` where the hub refuses it or can't be reached; the folder stays.
    """
    try:
        hub.create_repo(name, private=True, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message="A tower exported by HIVE")
    except Exception as error:  # of the network, and of the hub's many answers
        raise UserError(
            f"--push {name} failed ({first_line(error):.200}): {folder} is whole, so try again, or upload it by "
            f"`hf upload {name} {folder}`."
        ) from None
    return f"uploaded    https://huggingface.co/{name} (a new repository is private; its licence is still to be chosen)"

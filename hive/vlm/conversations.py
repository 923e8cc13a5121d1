"""Conversations about images, from LLaVA's JSON: checked before anything is trained, held as JSON texts.

A set is `Pairs` whose captions are conversations; `turns` parses one. As texts, 700,000 conversations take little
memory, and fingerprint, order and held-out split are those of captions.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hive.data.llava import FileReader, Folders, check_characters, load_records, open_root
from hive.data.pairs import Pairs
from hive.errors import UserError

IMAGE = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
Turn = tuple[str, str]
"""(role, text): the role is system, user or assistant; an image's placeholder is at the start of a user's turn."""


class SharedTexts(Sequence[str]):
    """Texts in one tensor, which worker processes share instead of holding a copy each."""

    def __init__(self, texts: Sequence[str]) -> None:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self.data = torch.frombuffer(bytearray(b"".join(encoded) or b" "), dtype=torch.uint8)
        self.ends = torch.tensor([len(text) for text in encoded], dtype=torch.int64).cumsum(0)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self.ends[index - 1]) if index else 0
        return self.data[start : int(self.ends[index])].numpy().tobytes().decode("utf-8", "surrogatepass")


def dumps(turns: Sequence[Turn]) -> str:
    """A conversation as the text that `Pairs` holds."""
    return json.dumps(turns, ensure_ascii=False)


def turns(text: str) -> list[Turn]:
    """The turns of a conversation that `dumps` wrote."""
    return [(role, value) for role, value in json.loads(text)]


def open_conversations(data: str, image_root: Path | None, flag: str) -> Pairs:
    """Every conversation of a LLaVA JSON; `UserError` names the first record at fault. `flag` is the file's flag."""
    path = Path(data).expanduser()
    if not path.is_file() or path.suffix.lower() != ".json":
        raise UserError(f'{flag} {data} is no file: give "embedded" or a LLaVA JSON file of conversations.')
    records = load_records(path)
    root = open_root(path, image_root)
    folders = Folders(root)
    texts: list[str] = []
    names: list[str] = []
    rows: list[int] = []
    for number, record in enumerate(records):
        label = f"Record {number} of {path}"
        if not isinstance(record, dict):
            raise UserError(f"{label} is not an object: each must have conversations, and may have an image.")
        if "id" in record:
            label += f" (id {record['id']!s:.80})"
        image = record.get("image")
        if image is not None:
            if not isinstance(image, str) or not image.strip():
                raise UserError(f'{label} has an "image" that is no path: give one image, or leave the field out.')
            folders.check(image, label)
        texts.append(dumps(_read_turns(record, label, image is not None)))
        names.append(f"record {number}" if image is None else image)
        rows.append(-1 if image is None else number)
    if not texts:
        raise UserError(f"{flag} {data} holds no conversation: give at least one.")
    return Pairs(texts, names, FileReader(str(root), names), np.array(rows, dtype=np.int64))


def _read_turns(record: dict[str, Any], label: str, has_image: bool) -> list[Turn]:
    """A system turn if the record has one, then user and assistant in alternation, with the image's placeholder.

    As in LLaVA, an answer before the first question is left out, and so is a last question without an answer. Raises
    `UserError` for anything else.
    """
    raw = record.get("conversations")
    if not isinstance(raw, list) or not raw:
        raise UserError(f'{label} has no "conversations": give a list of turns, or remove the record.')
    conversation: list[Turn] = []
    for turn in raw:
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(speaker, str) or speaker not in ROLES or not isinstance(text, str):
            raise UserError(
                f'{label} has a turn from {speaker!r:.40}, but each needs "from", one of {", ".join(ROLES)}, and '
                '"value", a text: mend or remove the record.'
            )
        check_characters(text, label)
        conversation.append((ROLES[speaker], text.strip()))
    system = 1 if conversation[0][0] == "system" else 0
    if len(conversation) > system and conversation[system][0] == "assistant":
        del conversation[system]
    if conversation and conversation[-1][0] == "user":
        del conversation[-1]
    roles = [role for role, _ in conversation[system:]]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise UserError(
            f"{label} is no conversation of question and answer by turns, with at most a system turn in front: mend or "
            "remove the record."
        )
    return _move_placeholder(conversation, label, has_image)


def _move_placeholder(conversation: list[Turn], label: str, has_image: bool) -> list[Turn]:
    """The conversation with its image's placeholder at the start of a turn: the turn that has it, or the first user's.

    Raises `UserError` where placeholders and images don't match.
    """
    places = [place for place, (_, text) in enumerate(conversation) for _ in range(text.count(IMAGE))]
    if not has_image:
        if places:
            raise UserError(f'{label} has {IMAGE} in a turn but no "image": add the image, or take the mark out.')
        return conversation
    if len(places) > 1 or (places and conversation[places[0]][0] != "user"):
        raise UserError(
            f"{label} has {IMAGE} {len(places)} times or in an answer: one image has one mark, in a question."
        )
    place = places[0] if places else next(place for place, (role, _) in enumerate(conversation) if role == "user")
    question = conversation[place][1].replace(IMAGE, "").strip()
    return [*conversation[:place], ("user", f"{IMAGE}\n{question}"), *conversation[place + 1 :]]

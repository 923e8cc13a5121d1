"""Conversations about images, checked before anything is trained, held as JSON texts.

A set is `Pairs` whose captions are conversations; `turns` parses one. As texts, 700,000 conversations take little
memory, and fingerprint, order and held-out split are those of captions.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hive.config import DataConfig
from hive.data.open_source import columns_of, open_source
from hive.data.pairs import Pairs, collect
from hive.data.source import CONVERSATION_FIELDS, BadRecord, Columns, Record, field, first_field
from hive.files import has_surrogate

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


def open_conversations(data: str, image_root: Path | None, options: DataConfig, flag: str) -> Pairs:
    """The usable conversations of what `flag` names; see `open_source`. Raises `UserError` where there is none."""
    source = open_source(data, image_root, options, flag)
    return collect(source, partial(read_conversation, columns=columns_of(options)), f"{flag} {data}")


def read_conversation(record: Record, columns: Columns) -> tuple[str, ...]:
    """The conversation of a record, as `dumps` writes it. Raises `BadRecord` where it is none.

    A system turn if the record has one, then user and assistant in alternation, with the image's placeholder. As in
    LLaVA, an answer before the first question is left out, and so is a last question without an answer.
    """
    if columns.caption is not None:
        raw = field(record.fields, columns.caption)
    else:
        raw = first_field(record.fields, CONVERSATION_FIELDS)
    if not isinstance(raw, list) or not raw:
        raise BadRecord('it has no "conversations", a list of turns')
    conversation: list[Turn] = []
    for turn in raw:
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(speaker, str) or speaker not in ROLES or not isinstance(text, str):
            raise BadRecord(
                f'it has a turn from {speaker!r:.40}, but each needs "from", one of {", ".join(ROLES)}, and "value", a '
                "text"
            )
        if has_surrogate(text):
            raise BadRecord("a turn is not text throughout: bytes that are not UTF-8, or half of a surrogate pair")
        conversation.append((ROLES[speaker], text.strip()))
    system = 1 if conversation[0][0] == "system" else 0
    if len(conversation) > system and conversation[system][0] == "assistant":
        del conversation[system]
    if conversation and conversation[-1][0] == "user":
        del conversation[-1]
    roles = [role for role, _ in conversation[system:]]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise BadRecord("it is no conversation of question and answer by turns, with at most a system turn in front")
    return (dumps(_move_placeholder(conversation, record.image is not None)),)


def _move_placeholder(conversation: list[Turn], has_image: bool) -> list[Turn]:
    """The conversation with its image's placeholder at the start of a turn: the turn that has it, or the first user's.

    Raises `BadRecord` where placeholders and images don't match.
    """
    places = [place for place, (_, text) in enumerate(conversation) for _ in range(text.count(IMAGE))]
    if not has_image:
        if places:
            raise BadRecord(f"it has {IMAGE} in a turn but no image")
        return conversation
    if len(places) > 1 or (places and conversation[places[0]][0] != "user"):
        raise BadRecord(f"it has {IMAGE} {len(places)} times or in an answer: one image has one mark, in a question")
    place = places[0] if places else next(place for place, (role, _) in enumerate(conversation) if role == "user")
    question = conversation[place][1].replace(IMAGE, "").strip()
    return [*conversation[:place], ("user", f"{IMAGE}\n{question}"), *conversation[place + 1 :]]

"""Conversations about images, read from the fields of any source's records and held as JSON texts.

A set is `Pairs` whose captions are conversations; `turns` parses one. As texts, 700,000 conversations take little
memory, and fingerprint, order and held-out split are those of captions.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hive.config import DataConfig
from hive.data.captions import read_captions
from hive.data.open_source import columns_of, open_source
from hive.data.pairs import Pairs, collect
from hive.data.source import CONVERSATION_FIELDS, BadRecord, Columns, Record, field, first_field
from hive.data.templates import DESCRIBE
from hive.data.turns import IMAGE, Turn, read_turns


def dumps(turns: Sequence[Turn]) -> str:
    """A conversation as the text that `Pairs` holds."""
    return json.dumps(turns, ensure_ascii=False)


def turns(text: str) -> list[Turn]:
    """The turns of a conversation that `dumps` wrote."""
    return [(role, value) for role, value in json.loads(text)]


def has_image(conversation: Sequence[Turn]) -> bool:
    """Whether a turn of a conversation that `read_conversation` read shows an image."""
    return any(role == "user" and text.startswith(f"{IMAGE}\n") for role, text in conversation)


def open_conversations(
    data: str, image_root: Path | None, options: DataConfig, flag: str, *, download: bool = True
) -> Pairs:
    """The conversations of a source, those about captions included. `flag` is the flag that names it.

    Raises `UserError` for a source that can't be used; records that can't be are left out and listed.
    """
    source = open_source(data, image_root, options, flag, download=download)
    return collect(source, partial(read_conversation, columns=columns_of(options)), f"{flag} {data}")


def read_conversation(record: Record, columns: Columns) -> tuple[str, ...]:
    """A record's conversation; of a record with captions alone, for each of them the question for it and the caption.

    Raises `BadRecord` where neither is there, or it isn't clear what is meant.
    """
    value = (
        first_field(record.fields, CONVERSATION_FIELDS)
        if columns.caption is None
        else field(record.fields, columns.caption)
    )
    conversation = read_turns(value)
    if conversation is not None:
        system = record.fields.get("system")
        if isinstance(system, str) and system.strip():
            conversation.insert(0, ("system", system))
        return (dumps(_place_image(_alternate(conversation), record.image is not None)),)
    if value is not None and columns.caption is None:
        raise BadRecord('its conversation is no list of turns with "from" or "role"')
    if record.image is None:
        raise BadRecord("it has neither a conversation nor an image with a caption")
    question = ("user", f"{IMAGE}\n{DESCRIBE}")
    return tuple(dumps([question, ("assistant", caption)]) for caption in read_captions(record, columns))


def _alternate(conversation: Sequence[Turn]) -> list[Turn]:
    """A system turn if there is one, then user and assistant in alternation; ends with an answer.

    Turns of one speaker that follow each other are joined. As in LLaVA, an answer before the first question is left
    out, and so is a last question without an answer. Raises `BadRecord` where nothing is left, and for a system turn
    between questions.
    """
    first = next((place for place, (role, _) in enumerate(conversation) if role == "user"), len(conversation))
    joined: list[Turn] = [("system", "\n".join(text for role, text in conversation[:first] if role == "system"))]
    for role, text in conversation[first:]:
        if role == "system":
            raise BadRecord("a system turn stands behind the first question")
        if joined[-1][0] == role:
            joined[-1] = (role, f"{joined[-1][1]}\n{text}".strip())
        else:
            joined.append((role, text))
    if joined[-1][0] == "user":
        del joined[-1]
    if len(joined) < 3:
        raise BadRecord("no question of it is followed by an answer")
    return joined if joined[0][1] else joined[1:]


def _place_image(conversation: list[Turn], with_image: bool) -> list[Turn]:
    """The conversation with its image's placeholder at the start of the first question that has one, or of the first.

    As in LLaVA, placeholders anywhere else are taken out, and in a conversation without an image "<image>" inside a
    text is that text. Raises `BadRecord` for a placeholder of an image that the record lacks, and for an empty answer.
    """
    questions = [place for place, (role, _) in enumerate(conversation) if role == "user"]
    if with_image:
        shown = next((place for place in questions if IMAGE in conversation[place][1]), questions[0])
        conversation = [(role, text.replace(IMAGE, "").strip()) for role, text in conversation]
        conversation[shown] = ("user", f"{IMAGE}\n{conversation[shown][1]}")
    elif any(line.strip() == IMAGE for place in questions for line in conversation[place][1].splitlines()):
        raise BadRecord(f"a question shows an image ({IMAGE}), but the record has none")
    if not all(text for role, text in conversation if role == "assistant"):
        raise BadRecord("an answer is empty")
    return conversation

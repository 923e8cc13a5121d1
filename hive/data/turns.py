"""The turns of a conversation as files have them: LLaVA's from and value, or role and content with parts."""

import json
from collections.abc import Mapping

from hive.data.source import BadRecord, first_field
from hive.files import has_surrogate

IMAGE = "<image>"
"""What stands for the image in a turn."""
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
Turn = tuple[str, str]
"""(role, text): the role is system, user or assistant."""


def read_turns(value: object) -> list[Turn] | None:
    """The turns that a field holds; None for what is no conversation. Raises `BadRecord` for a turn that is none.

    In tables they are JSON.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    value = as_list(value)
    if not isinstance(value, list | tuple) or not all(isinstance(turn, Mapping) for turn in value):
        return None
    return [_read_turn(turn) for turn in value] if any("from" in turn or "role" in turn for turn in value) else None


def as_list(value: object) -> object:
    """A list of turns; `datasets` stores one as an object of lists, if its feature is a Sequence of a dict."""
    if isinstance(value, Mapping) and value and all(isinstance(column, list) for column in value.values()):
        return [dict(zip(value, turn, strict=False)) for turn in zip(*value.values(), strict=False)]
    return value


def _read_turn(turn: Mapping[str, object]) -> Turn:
    speaker = first_field(turn, ("from", "role"))
    role = ROLES.get(str(speaker).strip().lower())
    if role is None:
        raise BadRecord(f"a turn is from {speaker!r:.40}, but the speakers are {', '.join(ROLES)}")
    content = next((turn[name] for name in ("value", "content") if turn.get(name) is not None), None)
    text = content if isinstance(content, str) else _join_parts(content)
    if has_surrogate(text):
        raise BadRecord("a turn is not text throughout: bytes that are not UTF-8, or half of a surrogate pair")
    return role, text.strip()


def _join_parts(content: object) -> str:
    """A turn's text, from parts of texts and images; each image is a line of its own."""
    if not isinstance(content, list):
        raise BadRecord(f"a turn says {content!r:.40}, which is no text")
    lines = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part.get("text") if isinstance(part, Mapping) else part
        if str(kind).startswith("image"):
            lines.append(IMAGE)
        elif kind == "text" and isinstance(text, str):
            lines.append(text)
        else:
            raise BadRecord(f"a turn has a part that is neither text nor image: {part!r:.80}")
    return "\n".join(lines)

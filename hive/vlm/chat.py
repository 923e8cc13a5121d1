"""Conversations as token ids: rendered by a chat template, with places for images and a loss on the answers alone."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tokenizers
import torch

from hive.data.text import UNCUT, BadSample, BadText, Batch, spell_out
from hive.data.tokenizer_files import load_transformers_tokenizer
from hive.data.turns import IMAGE, Turn
from hive.errors import UserError, first_line
from hive.vlm.conversations import has_image, turns

DATE = "26 Jul 2024"
"""The date that Llama 3's template is given, its default; without one it would write today's date."""


@dataclass(frozen=True)
class ChatText:
    """A tokenized conversation, cut after its last answer."""

    ids: list[int]
    answers: list[bool]
    """Whether each id belongs to an answer or ends one."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False, kw_only=True)
class ChatBatch(Batch):
    """Conversations packed end to end, with N rows for each image: B samples, R rows, T text tokens, S supervised ones.

    `tokens` are the T text tokens; `targets` [S] are what the rows `predicting_rows` predict; `positions` [R] and
    `cu_seqlens` count rows. A batch without images has a blank one that no row reads, since the tower always runs.
    """

    text_rows: torch.Tensor
    """Row of each text token, int64 [T]."""
    image_rows: torch.Tensor
    """Row of each image token, int64 [images * N]."""
    predicting_rows: torch.Tensor
    """Row whose output predicts each target, int64 [S]."""

    @property
    def images(self) -> int:
        """Number of images, the blank one not counted."""
        return self.pixels.shape[0] if len(self.image_rows) else 0


class ChatTokenizer:
    """Encodes conversations and packs them into batches, with the ids of the processor that is saved with the model."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        template: str,
        special_tokens: dict[str, str],
        patches: int,
        image_size: int,
    ) -> None:
        """`backend` has the token `IMAGE`; an image of `image_size` pixels a side becomes `patches` tokens."""
        backend.no_truncation()
        backend.no_padding()
        self.backend, self.template, self.special_tokens = backend, template, special_tokens
        self.patches, self.image_size = patches, image_size
        image_id = backend.token_to_id(IMAGE)
        assert image_id is not None
        self.image_id: int = image_id

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.backend.to_str(), self.template, self.special_tokens, self.patches, self.image_size)

    @property
    def vocab_size(self) -> int:
        """Rows that the language model's embedding needs while it trains: images have no embedding."""
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        return max(number for number in vocabulary.values() if number != self.image_id) + 1

    @cached_property
    def _text_backend(self) -> tokenizers.Tokenizer:
        """The tokenizer in which `IMAGE` is text, for a conversation without an image that speaks of it."""
        state = json.loads(self.backend.to_str())
        for token in state["added_tokens"]:
            if token["content"] == IMAGE:
                token["content"] = f"\0{IMAGE}\0"  # in no text; without the token, ids of others might move
        return tokenizers.Tokenizer.from_str(json.dumps(state))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the tokenizer, the template and the image's tokens."""
        parts = [json.loads(self.backend.to_str()), self.template, self.special_tokens, self.patches]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def render(self, conversation: Sequence[Turn], ask: bool) -> str:
        """The conversation as the template's text; with `ask` it ends where the next answer would begin."""
        from transformers.utils.chat_template_utils import render_jinja_template  # slow to import

        messages = [{"role": role, "content": text} for role, text in conversation]
        variables: Any = self.special_tokens
        texts: Any = render_jinja_template(
            [messages], chat_template=self.template, add_generation_prompt=ask, **variables
        )
        return texts[0][0]

    def encode(self, text: str, max_tokens: int) -> ChatText:
        """A conversation that `Pairs` holds as at most `max_tokens` ids, an image counted as one.

        Raises `BadText` where the first `max_tokens` ids hold no answer or not the image.
        """
        conversation = turns(text)
        whole, spans = self.locate_answers(conversation)
        is_text = IMAGE in whole and not has_image(conversation)
        encoding = (self._text_backend if is_text else self.backend).encode(whole, add_special_tokens=False)
        answers = [any(start < last and end > first for first, last in spans) for start, end in encoding.offsets]
        ids, answers = encoding.ids[:max_tokens], answers[:max_tokens]
        if True not in answers:
            raise BadText(f"no answer begins within {max_tokens} tokens")
        if self.image_id in encoding.ids and self.image_id not in ids:
            raise BadText(f"the image stands behind {max_tokens} tokens")
        end = len(answers) - answers[::-1].index(True)
        return ChatText(ids[:end], answers[:end])

    def show(self, text: str, max_tokens: int) -> tuple[str, str]:
        """The template's text of the ids that `encode` keeps, and of those that it cuts off."""
        return spell_out(self.backend, self.encode(text, UNCUT).ids, max_tokens)

    def plain(self, text: str) -> str:
        """What is said in a conversation, on one line."""
        return " ".join(" ".join(said for _, said in turns(text)).replace(IMAGE, "").split())

    def locate_answers(self, conversation: Sequence[Turn]) -> tuple[str, list[tuple[int, int]]]:
        """(the template's text, [start, end) of each answer in its characters, the answer's end mark included)."""
        spans, whole = [], ""
        for place, (role, _) in enumerate(conversation):
            if role == "assistant":
                before, whole = (
                    self.render(conversation[:place], ask=True),
                    self.render(conversation[: place + 1], ask=False),
                )
                spans.append((len(before), len(whole.rstrip())))
        return whole, spans

    def prompt(self, question: str, image: bool) -> list[int]:
        """The ids of a question up to where its answer begins, with all tokens of its image if it has one."""
        text = self.render([("user", f"{IMAGE}\n{question}" if image else question)], ask=True)
        return self.expand(self.backend.encode(text, add_special_tokens=False).ids)

    def expand(self, ids: Sequence[int]) -> list[int]:
        """`ids` with each image token repeated, once for each of the image's N patches."""
        return [token for token in ids for _ in range(self.patches if token == self.image_id else 1)]

    def pack(self, samples: Sequence[tuple[torch.Tensor | None, ChatText]], bad: Sequence[BadSample]) -> ChatBatch:
        """One batch of (pixels uint8 [3, H, W] or None, text) samples; no samples give a batch without tokens."""
        images = [image for image, _ in samples if image is not None]
        tokens: list[int] = []
        targets: list[int] = []
        text_rows: list[int] = []
        image_rows: list[int] = []
        predicting_rows: list[int] = []
        lengths: list[int] = []
        row = 0
        for _, text in samples:
            first = row
            for place, (token, supervised) in enumerate(zip(text.ids, text.answers, strict=True)):
                if supervised and place > 0:
                    targets.append(token)
                    predicting_rows.append(row - 1)
                if place == len(text.ids) - 1:
                    break  # the last token is only predicted
                if token == self.image_id:
                    image_rows.extend(range(row, row + self.patches))
                    row += self.patches
                else:
                    tokens.append(token)
                    text_rows.append(row)
                    row += 1
            lengths.append(row - first)
        blank = torch.zeros(3, self.image_size, self.image_size, dtype=torch.uint8)
        return ChatBatch(
            pixels=torch.stack(images or [blank]),
            tokens=torch.tensor(tokens, dtype=torch.int64),
            targets=torch.tensor(targets, dtype=torch.int64),
            positions=torch.tensor([place for length in lengths for place in range(length)], dtype=torch.int64),
            cu_seqlens=torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(torch.int32),
            max_seqlen=max(lengths, default=0),
            bad=tuple(bad),
            text_rows=torch.tensor(text_rows, dtype=torch.int64),
            image_rows=torch.tensor(image_rows, dtype=torch.int64),
            predicting_rows=torch.tensor(predicting_rows, dtype=torch.int64),
        )


def _restore(backend: str, *others: Any) -> ChatTokenizer:
    return ChatTokenizer(tokenizers.Tokenizer.from_str(backend), *others)


def load_chat_tokenizer(path: str | None, patches: int, image_size: int) -> tuple[ChatTokenizer, Any]:
    """(our tokenizer, the same as an object of transformers) of a chat model, both with the image's token added.

    The second one is saved with the model. Raises `UserError` where there is no chat template, or one in which an
    answer can't be told from the text around it.
    """
    loaded = load_transformers_tokenizer(path)
    name = path or "that is embedded"
    template = loaded.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not isinstance(template, str):
        raise UserError(
            f"The tokenizer {name} has no chat template: give an instruct or chat model, such as Llama-3.2-1B-Instruct."
        )
    loaded.add_special_tokens({"additional_special_tokens": [IMAGE]}, replace_extra_special_tokens=False)
    loaded.image_token = IMAGE
    loaded.chat_template = as_processor_template(template)
    special_tokens = {key: value for key, value in loaded.special_tokens_map.items() if isinstance(value, str)}
    backend = tokenizers.Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    chat = ChatTokenizer(backend, loaded.chat_template, special_tokens, patches, image_size)
    _check_template(chat, name)
    return chat, loaded


def as_processor_template(template: str) -> str:
    """The template, extended to take the lists of images and texts that processors give it, with the date `DATE`."""
    return (
        f'{{%- set date_string = "{DATE}" -%}}'
        "{%- set plain = namespace(messages=[]) -%}"
        "{%- for message in messages -%}"
        "{%- if message.content is string -%}{%- set text = message.content -%}"
        "{%- else -%}"
        "{%- set parts = namespace(text='') -%}"
        "{%- for part in message.content -%}"
        "{%- if part.type == 'image' -%}{%- set parts.text = parts.text + '" + IMAGE + "\\n' -%}"
        "{%- else -%}{%- set parts.text = parts.text + part.text -%}{%- endif -%}"
        "{%- endfor -%}"
        "{%- set text = parts.text -%}"
        "{%- endif -%}"
        "{%- set plain.messages = plain.messages + [{'role': message.role, 'content': text}] -%}"
        "{%- endfor -%}"
        "{%- set messages = plain.messages -%}" + template
    )


def _check_template(chat: ChatTokenizer, name: str) -> None:
    """Raises `UserError` unless each of two answers is located in the template's text, with a mark that ends it."""
    probe: list[Turn] = [("user", f"{IMAGE}\nFirst?"), ("assistant", "one"), ("user", "Second?"), ("assistant", "two")]
    try:
        whole, spans = chat.locate_answers(probe)
    except Exception as error:  # a template may fail in any way that code can
        raise UserError(
            f"The chat template of the tokenizer {name} fails ({first_line(error):.120}): give another model."
        ) from None
    located = [whole[first:last].strip() for first, last in spans]
    answers = ("one", "two")
    if not all(text.startswith(answer) for text, answer in zip(located, answers, strict=True)) or IMAGE not in whole:
        raise UserError(
            f"The chat template of the tokenizer {name} doesn't write turns one after another, so that answers can't "
            "be told from questions: give another model."
        )
    if located == list(answers):
        raise UserError(
            f"The chat template of the tokenizer {name} puts no mark behind an answer, so that a model can't learn "
            "where to stop: give another model."
        )

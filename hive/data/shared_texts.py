"""Texts that the worker processes of a run share."""

from collections.abc import Sequence
from typing import Any

import torch


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

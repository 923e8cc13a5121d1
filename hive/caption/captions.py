"""Captions a list of images in batches and prints them as they come."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hive.caption.cli import Command
from hive.caption.image_files import find_images, read_image
from hive.data.images import BadImage
from hive.distributed import join_world
from hive.model.generate import Choose, generate
from hive.train.trained import Run, load_run


@dataclass(frozen=True)
class Caption:
    """What the model says of an image."""

    text: str
    finished: bool
    """Whether it ended by itself; otherwise it was cut at the largest number of tokens."""


def run(command: Command) -> int:
    """Captions the images that the command names; returns the exit code: 1 where some could not be read."""
    paths = find_images(command.images)
    with join_world(command.device) as world:
        return print_captions(command, load_run(command.run, world.device, command.kernel, "RUN"), paths)


def print_captions(command: Command, trained: Run, paths: Sequence[Path]) -> int:
    """Prints the captions of the images, batch by batch; says on standard error which could not be read."""
    width = max(len(_shown(path)) for path in paths)
    failed = False
    for path, result in captions(command, trained, paths):
        name = _shown(path)
        if isinstance(result, BadImage):
            failed = True
            print(f"error: {name} can't be used ({result}): it is left out.", file=sys.stderr)
            if command.json:
                print(json.dumps({"image": name, "error": str(result)}, ensure_ascii=False))
            continue
        for number, caption in enumerate(result):
            if command.json:
                sample = {} if command.samples is None else {"sample": number}
                line = {"image": name, **sample, "caption": caption.text, "finished": caption.finished}
                print(json.dumps(line, ensure_ascii=False))
            else:
                print(f"{name:<{width}}  {caption.text}{'' if caption.finished else ' ...'}")
        sys.stdout.flush()
    return 1 if failed else 0


def captions(command: Command, trained: Run, paths: Sequence[Path]) -> Iterator[tuple[Path, list[Caption] | BadImage]]:
    """Yields each path with the captions of its image, or with the reason why it has none, in order."""
    for start in range(0, len(paths), command.batch_size):
        read: dict[Path, Tensor] = {}
        bad: dict[Path, BadImage] = {}
        chosen = paths[start : start + command.batch_size]
        for path in chosen:
            try:
                read[path] = read_image(path, trained.spec, trained.config.dataset.max_megapixels)
            except BadImage as error:
                bad[path] = error
        texts = caption_pixels(command, trained, torch.stack([*read.values()])) if read else []
        captioned = dict(zip(read, texts, strict=True))
        yield from ((path, bad[path] if path in bad else captioned[path]) for path in chosen)


def caption_pixels(command: Command, trained: Run, pixels: Tensor) -> list[list[Caption]]:
    """The captions of each image of uint8 pixels [B, 3, H, W]: one, or as many as are drawn."""
    tokenizer = trained.tokenizer
    longest = command.max_tokens or trained.config.dataset.max_text_tokens - 1  # which counts BOS
    drawn: list[list[Caption]] = [[] for _ in pixels]
    for sample in range(command.samples or 1):
        choose: Choose = choose_likeliest
        if command.samples is not None:
            choose = Draw(pixels, command.temperature or 1.0, f"{command.seed} {sample}")
        texts = generate(trained.model, pixels, tokenizer.bos_id, choose, tokenizer.is_end, longest)
        for captions_of_image, ids in zip(drawn, texts, strict=True):
            captions_of_image.append(Caption(tokenizer.decode(ids), tokenizer.is_end(ids[-1])))
    return drawn


def choose_likeliest(logits: Tensor) -> Tensor:
    """The likeliest token of each text, int64 [B], of logits [B, V]."""
    return logits.argmax(-1)


class Draw:
    """Draws tokens at random; what is drawn of an image depends on no other image."""

    def __init__(self, pixels: Tensor, temperature: float, salt: str) -> None:
        """Draws texts of the images uint8 [B, 3, H, W]; another `salt` draws others."""
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(_seed(image, salt)) for image in pixels]

    def __call__(self, logits: Tensor) -> Tensor:
        """A token of each text, int64 [B], of logits [B, V]."""
        below = (logits - logits.max(-1, keepdim=True).values).double()  # at most 0: no temperature overflows
        shares = (below / self.temperature).softmax(-1).cpu()
        drawn = [torch.multinomial(row, 1, generator=one) for row, one in zip(shares, self.generators, strict=True)]
        return torch.cat(drawn).to(logits.device)


def _seed(image: Tensor, salt: str) -> int:
    return int.from_bytes(hashlib.sha256(salt.encode() + image.numpy().tobytes()).digest()[:8])


def _shown(path: Path) -> str:
    """The path as text that can be printed; names of files may hold bytes that are no UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")

"""Makes a figure, its arrays and a table of numbers from trained models, an image and its caption."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hive.data.images import BadImage, ImageSpec, load
from hive.data.text import Batch, pack
from hive.errors import UserError
from hive.files import replace_files
from hive.maps.attention import AttentionMaps, attention_maps
from hive.maps.draw import AttentionBlock, GradientRow, attention_figure, gradient_figure, shorten
from hive.maps.gradients import gradient_maps
from hive.maps.numbers import effective_area, energy_share, entropy, unit_range
from hive.maps.words import Word, choose, words_of
from hive.train.trained import Run

PICTURE = 256  # pixels: the image is drawn at the smallest multiple of the tower's size that is at least this
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class MapFigure:
    """A figure of maps, each run's arrays, and a table of their numbers."""

    png: bytes
    arrays: dict[str, Arrays]
    """By the run's label: the content of its .npz file."""
    table: str
    """The numbers as text, for the terminal."""

    def write(self, folder: Path, name: str) -> list[Path]:
        """Writes folder/name.png and folder/name.npz, or name-LABEL.npz for several runs; returns the paths."""
        contents = {folder / f"{name}.png": self.png}
        for label, arrays in self.arrays.items():
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
            suffix = f"-{slug(label)}" if len(self.arrays) > 1 else ""
            contents[folder / f"{name}{suffix}.npz"] = buffer.getvalue()
        folder.mkdir(parents=True, exist_ok=True)
        replace_files(contents)
        return list(contents)


def make_gradients(runs: Sequence[Run], image: bytes, caption: str) -> MapFigure:
    """Returns gradient maps of every encoder layer of each run; raises `UserError` for an image that can't be read.

    Arrays a run: `maps` fp32 [L, h, w] of L2 norms, not scaled; `energy_share` [L]; `image` uint8 [P, P, 3]; `caption`.
    """
    rows, arrays, lines = [], {}, []
    for label, run in _label_runs(runs).items():
        picture = _load_picture(image, run)
        maps = gradient_maps(run.model, _make_batch(image, caption, run)).cpu()
        shares, reached = energy_share(maps), len(run.model.tower.read_layers)
        rows.append(GradientRow(label, picture, unit_range(maps).numpy(), shares.numpy(), reached))
        arrays[label] = {
            "maps": maps.numpy(),
            "energy_share": shares.numpy(),
            "image": picture,
            "caption": np.array(caption),
        }
        numbers = "".join(f"{100 * share:>7.1f}" for share in shares[:reached].tolist())
        lines.append(f"{label:<16}{numbers}   (layers 1 to {reached} of {len(maps)})")
    table = "\n".join(["share of gradient energy by layer, %", *lines])
    return MapFigure(gradient_figure(caption, rows), arrays, table)


def make_attention(
    runs: Sequence[Run], image: bytes, caption: str, words: Sequence[str] = (), head: int | None = None
) -> MapFigure:
    """Returns attention maps of words of the caption at each depth of each run, side by side.

    A word's map is the mean over its tokens; `head` None is the mean over the query heads. Arrays a run: `weights`
    fp32 [S, K, Hq, h, w] of all heads; `entropy`, `effective_area` and `image_share` [S, K] of the maps shown (the
    entropy in nats, of the map scaled to sum to 1; the share is its sum before); `words`, `caption`, `decoder_layers`
    and `hidden_states` [S], `head` (-1 the mean), `image` uint8 [P, P, 3]. Raises `UserError` for a word that the
    caption lacks, a head that the model lacks, or an image that can't be read.
    """
    blocks, arrays, lines = [], {}, []
    names: list[str] = []
    for label, run in _label_runs(runs).items():
        picture = _load_picture(image, run)
        chosen = choose(words_of(run.tokenizer, caption, run.config.dataset.max_text_tokens), words or names)
        names = [word.text for word in chosen]
        maps, weights = _average_words(run, _make_batch(image, caption, run), chosen)
        shown = _select_head(weights, head)
        entropies, areas, share = entropy(shown), effective_area(shown), shown.sum((-2, -1))
        depths = [
            f"encoder {state} →\ndecoder {layer}"
            for state, layer in zip(maps.hidden_states, maps.decoder_layers, strict=True)
        ]
        numbers = (entropies.numpy(), areas.numpy(), share.numpy())
        blocks.append(AttentionBlock(label, picture, depths, unit_range(shown).numpy(), *numbers))
        arrays[label] = {
            "weights": weights.numpy(),
            "entropy": entropies.numpy(),
            "effective_area": areas.numpy(),
            "image_share": share.numpy(),
            "words": np.array(names),
            "caption": np.array(caption),
            "decoder_layers": np.array(maps.decoder_layers),
            "hidden_states": np.array(maps.hidden_states),
            "head": np.array(-1 if head is None else head),
            "image": picture,
        }
        lines += _format_attention(label, depths, names, entropies, areas, share)
    heads = "mean over heads" if head is None else f"head {head}"
    return MapFigure(attention_figure(caption, names, blocks, heads), arrays, "\n".join(lines))


def _average_words(run: Run, batch: Batch, words: Sequence[Word]) -> tuple[AttentionMaps, Tensor]:
    """Returns the maps of the words' tokens, and the means over each word's tokens, [S, K, Hq, h, w] on the CPU."""
    tokens = torch.tensor([token for word in words for token in word.tokens], device=batch.pixels.device)
    maps = attention_maps(run.model, run.config, batch, tokens)
    pieces = maps.weights.cpu().split([len(word.tokens) for word in words], 1)
    return maps, torch.stack([piece.mean(1) for piece in pieces], 1)


def _select_head(weights: Tensor, head: int | None) -> Tensor:
    """Returns one head of [S, K, Hq, h, w], or the mean over heads where `head` is None: [S, K, h, w]."""
    heads = weights.shape[2]
    if head is None:
        return weights.mean(2)
    if not 0 <= head < heads:
        raise UserError(f"--head is {head}, but the model's query heads are 0 to {heads - 1}: choose one, or mean.")
    return weights[:, :, head]


def _format_attention(
    label: str, depths: Sequence[str], words: Sequence[str], entropies: Tensor, areas: Tensor, share: Tensor
) -> list[str]:
    short = [shorten(word) for word in words]
    width = max(10, *(len(word) + 2 for word in short))
    lines = [f"{label:<40}" + "".join(f"{word:>{width}}" for word in short)]
    for depth, *numbers in zip(depths, entropies.tolist(), areas.tolist(), share.tolist(), strict=True):
        for name, values, form in (
            ("entropy, nats", numbers[0], "{:.2f}"),
            ("effective area, %", [100 * area for area in numbers[1]], "{:.0f}"),
            ("on the image, %", [100 * part for part in numbers[2]], "{:.0f}"),
        ):
            start = depth.replace("\n", " ") if name.startswith("entropy") else ""
            lines.append(
                f"{start:<22}{name:>26}"[:48].ljust(40) + "".join(f"{form.format(v):>{width}}" for v in values)
            )
    return lines


def _label_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Returns the runs by label: their method, or their folder where methods repeat."""
    namings: tuple[Callable[[Run], str], ...] = (
        lambda run: "HIVE" if run.config.method == "hive" else run.config.method,
        lambda run: run.folder.resolve().name,
        lambda run: str(run.folder.resolve()),
    )
    for naming in namings:
        labels = [naming(run) for run in runs]
        if len({slug(label) for label in labels}) == len(runs):
            return dict(zip(labels, runs, strict=True))
    raise UserError("--run names one folder more than once: give different runs.")


def _make_batch(image: bytes, caption: str, run: Run) -> Batch:
    pixels = _load_pixels(image, run, run.spec)
    ids = run.tokenizer.encode(caption, run.config.dataset.max_text_tokens)
    return pack([(pixels, ids)]).to(run.model.tower.mean.device)


def _load_picture(image: bytes, run: Run) -> np.ndarray:
    """Returns the part of the image that the tower sees, at a higher resolution: uint8 [P, P, 3]."""
    factor = -(-PICTURE // run.spec.size)
    pixels = _load_pixels(image, run, replace(run.spec, size=factor * run.spec.size))
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def _load_pixels(image: bytes, run: Run, spec: ImageSpec) -> Tensor:
    try:
        return load(image, spec, run.config.dataset.max_megapixels)
    except BadImage as error:
        raise UserError(f"The image can't be used ({error}): give a whole image file.") from None


def slug(text: str) -> str:
    """Returns the text as a part of a file name: a-z, 0-9 and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"

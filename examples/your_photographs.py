"""Trains a small tower on a folder of your own photographs, loads it with transformers and reads one image's features.

    python examples/your_photographs.py --folder photos/ --steps 20

`photos/` holds pairs such as `beach.jpg` and `beach.txt`, the text being the photograph's caption; at least 4 pairs.
The other forms that a set of photographs may have are in docs/data.md: only `--data` differs.
"""

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image, ImageOps
from transformers import AutoModel
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.17's at the top needs torchvision

from hive.caption.__main__ import main as caption
from hive.command import exit_code
from hive.data.__main__ import main as check
from hive.data.images import EXTENSIONS
from hive.errors import UserError
from hive.train.__main__ import main as train


def main(argv: list[str] | None = None) -> int:
    """Runs the example; returns the exit code of the step that failed, or 2 with one sentence for a mistake."""
    return exit_code(lambda: run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """Checks the photographs, trains, then prints the shape of one image's features and what the model says of it."""
    parser = argparse.ArgumentParser(
        description="A folder of photographs with captions becomes a vision tower.",
        epilog="All other flags are those of python -m hive.train, such as --dataset.max-text-tokens 64.",
    )
    parser.add_argument("--folder", type=Path, required=True, help="holds NAME.jpg beside NAME.txt")
    parser.add_argument("--out", type=Path, default=Path("runs/example"), help="the run's folder, a new one")
    parser.add_argument("--steps", type=int, default=20, help="most steps of each of the three stages")
    flags, others = parser.parse_known_args(argv)
    if flags.out.exists():
        raise UserError(f"--out {flags.out} is there already: give a new one.")

    # In a shell: python -m hive.data --data photos/ --decode --out ...-check. It lists all that is wrong with the
    # folder, and draws 16 pairs as the tower and the language model read them.
    data = ["--data", str(flags.folder)]
    if code := check([*data, *others, "--decode", "--out", f"{flags.out}-check"]):
        return code

    # In a shell: python -m hive.train --data photos/ ... Every stage sees the pairs 10 times, or less where --steps
    # ends it.
    settings = ["--epochs", "10", "--batch-size", "4", "--max-steps", str(flags.steps)]
    if code := train([*data, *settings, *others, "--out", str(flags.out)]):
        return code

    tower = AutoModel.from_pretrained(flags.out / "tower").eval()
    processor = AutoImageProcessor.from_pretrained(flags.out / "tower")
    photograph = min(path for path in flags.folder.rglob("*") if path.suffix.lower()[1:] in EXTENSIONS)
    upright = ImageOps.exif_transpose(Image.open(photograph))  # as in training; the rest the processor does
    with torch.no_grad():
        features = tower(**processor(upright, return_tensors="pt")).last_hidden_state
    print(f"{photograph.name}: features of shape {tuple(features.shape)} (images, tokens, width)")

    return caption([str(flags.out), str(photograph)])  # what so short a training has taught it


if __name__ == "__main__":
    sys.exit(main())

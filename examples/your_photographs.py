"""Trains a small tower on a folder of your own photographs, loads it with transformers and reads one image's features.

    python examples/your_photographs.py --folder photos/ --steps 20

`photos/` holds pairs such as `beach.jpg` and `beach.txt`, the text being the photograph's caption; at least 4 pairs.
Images end in .jpg, .jpeg or .png.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from PIL import Image, ImageOps
from transformers import AutoModel
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.17's at the top needs torchvision

from hive.command import exit_code
from hive.errors import UserError
from hive.files import replace_text
from hive.train.__main__ import main as train

ENDINGS = (".jpg", ".jpeg", ".png")
FEWEST = 4  # of which two are kept out of training


def read_pairs(folder: Path) -> dict[str, str]:
    """The captions of a folder's images, by the image's name; raises `UserError` for what can't be trained on."""
    if not folder.is_dir():
        raise UserError(f"--folder {folder} is no folder: give the one that your photographs are in.")
    captions = {}
    for image in sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS):
        text = image.with_suffix(".txt")
        if not text.exists():
            continue
        try:
            captions[image.name] = text.read_text(encoding="utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise UserError(f"{text} is no UTF-8 (at byte {error.start}): save it as UTF-8.") from None
        if not captions[image.name]:
            raise UserError(f"{text} is empty: write what {image.name} shows, or remove the file.")
    if len(captions) < FEWEST:
        raise UserError(
            f"--folder {folder} has {len(captions)} pairs such as beach.jpg and beach.txt: {FEWEST} or more are needed."
        )
    return captions


def main(argv: list[str] | None = None) -> int:
    """Runs the example; returns the training's exit code, or 2 with one sentence for a mistake."""
    return exit_code(lambda: run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """Checks the pairs, trains, then prints the shape of one image's features."""
    parser = argparse.ArgumentParser(description="A folder of photographs with captions becomes a vision tower.")
    parser.add_argument("--folder", type=Path, required=True, help="holds NAME.jpg beside NAME.txt")
    parser.add_argument("--out", type=Path, default=Path("runs/photographs"), help="the run's folder, a new one")
    parser.add_argument("--steps", type=int, default=20, help="most steps of each of the three stages")
    flags = parser.parse_args(argv)
    if flags.out.exists():
        raise UserError(f"--out {flags.out} is there already: give a new one.")
    captions = read_pairs(flags.folder)  # before anything is written

    pairs_file = Path(f"{flags.out}.json")  # beside the run's folder, which the run makes itself
    pairs_file.parent.mkdir(parents=True, exist_ok=True)
    records = [{"image": image, "caption": caption} for image, caption in captions.items()]
    replace_text(pairs_file, json.dumps(records, indent=1))

    # The same as `python -m hive.train --data ... --image-root ...` in a shell. Every stage sees the pairs 10 times, or
    # less where --steps ends it.
    options = {"--data": pairs_file, "--image-root": flags.folder, "--out": flags.out, "--max-steps": flags.steps}
    options |= {"--epochs": 10, "--batch-size": 4}
    code = train([str(word) for option in options.items() for word in option])
    if code != 0:
        return code

    tower = AutoModel.from_pretrained(flags.out / "tower").eval()
    processor = AutoImageProcessor.from_pretrained(flags.out / "tower")
    first = next(iter(captions))
    upright = ImageOps.exif_transpose(Image.open(flags.folder / first))  # as in training; the rest the processor does
    with torch.no_grad():
        features = tower(**processor(upright, return_tensors="pt")).last_hidden_state
    print(f"{first}: features of shape {tuple(features.shape)} (images, tokens, width)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

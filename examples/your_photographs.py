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
from hive.train.__main__ import main as train


def write_llava_json(folder: Path, file: Path) -> list[Path]:
    """Writes the folder's pairs in LLaVA's form to `file`; returns the images, whose paths there start at `folder`."""
    endings = (".jpg", ".jpeg", ".png")
    images = [path for path in sorted(folder.glob("*.*")) if path.suffix.lower() in endings]
    images = [image for image in images if image.with_suffix(".txt").exists()]
    captions = [image.with_suffix(".txt").read_text(encoding="utf-8").strip() for image in images]
    records = [{"image": image.name, "caption": caption} for image, caption in zip(images, captions, strict=True)]
    file.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return images


def main(argv: list[str] | None = None) -> int:
    """Trains, then prints the shape of one image's features; returns the training's exit code."""
    parser = argparse.ArgumentParser(description="A folder of photographs with captions becomes a vision tower.")
    parser.add_argument("--folder", type=Path, required=True, help="holds NAME.jpg beside NAME.txt")
    parser.add_argument("--out", type=Path, default=Path("runs/photographs"), help="the run's folder, a new one")
    parser.add_argument("--steps", type=int, default=20, help="most steps of each of the three stages")
    flags = parser.parse_args(argv)
    if flags.out.exists():
        parser.error(f"--out {flags.out} is there already: give a new one")

    pairs_file = Path(f"{flags.out}.json")  # beside the run's folder, which the run makes itself
    pairs_file.parent.mkdir(parents=True, exist_ok=True)
    images = write_llava_json(flags.folder, pairs_file)

    # The same as `python -m hive.train --data ... --image-root ...` in a shell. Every stage sees the pairs 10 times, or
    # less where --steps ends it.
    options = {"--data": pairs_file, "--image-root": flags.folder, "--out": flags.out, "--max-steps": flags.steps}
    options |= {"--epochs": 10, "--batch-size": 4}
    code = train([str(word) for option in options.items() for word in option])
    if code != 0:
        return code

    tower = AutoModel.from_pretrained(flags.out / "tower").eval()
    processor = AutoImageProcessor.from_pretrained(flags.out / "tower")
    upright = ImageOps.exif_transpose(Image.open(images[0]))  # as in training; the rest the processor does
    with torch.no_grad():
        features = tower(**processor(upright, return_tensors="pt")).last_hidden_state
    print(f"{images[0].name}: features of shape {tuple(features.shape)} (images, tokens, width)")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))

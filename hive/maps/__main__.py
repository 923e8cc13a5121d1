"""python -m hive.maps gradients|attention --run DIR [DIR ...] --image FILE --caption TEXT"""

import argparse
import sys
from pathlib import Path

from hive.command import Parser, exit_code
from hive.errors import UserError
from hive.surrogates import has_surrogate


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line; `UserError` for what can't be."""
    parser = Parser(
        prog="python -m hive.maps", description="Draws what a trained model looks at in an image, and learns from it."
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="gradients|attention")
    gradients = kinds.add_parser("gradients", help="gradient of the caption loss at every encoder layer")
    attention = kinds.add_parser(
        "attention", help="what words of the caption read, at every depth that reads the image"
    )
    for kind in (gradients, attention):
        kind.add_argument(
            "--run", type=Path, nargs="+", action="extend", required=True, metavar="DIR",
            help="run folder; two are drawn beside each other",
        )  # fmt: skip
        kind.add_argument("--image", type=Path, required=True, metavar="FILE", help="JPEG, PNG or WebP")
        kind.add_argument("--caption", required=True, metavar="TEXT", help="the image's text")
        kind.add_argument("--out", type=Path, metavar="DIR", help="where to write; default: maps/ in the first run")
        kind.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; default: auto")
        kind.add_argument(
            "--kernel", choices=("auto", "reference", "torch", "triton", "cuda"), help="default: the run's own"
        )
    attention.add_argument(
        "--words", nargs="+", action="extend", default=[], metavar="WORD",
        help="words of the caption; default: the six longest",
    )  # fmt: skip
    attention.add_argument("--head", type=_head, metavar="mean|N", help="one query head, from 0; default: their mean")
    return parser.parse_args(argv)


def _head(text: str) -> int | None:
    if text == "mean":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'"{text}" is neither mean nor a number from 0')
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Draws one figure and says where it is."""
    if not arguments.caption.split() or has_surrogate(arguments.caption):
        raise UserError("--caption is empty or no UTF-8 text: give the text that goes with the image.")
    try:
        image = arguments.image.read_bytes()
    except OSError as error:
        raise UserError(f"--image {arguments.image} can't be read ({error.strerror}): give an image file.") from error
    # torch takes seconds to import: --help and mistyped flags answer without it
    from hive.distributed import join_world
    from hive.maps.make import make_attention, make_gradients, slug
    from hive.train.trained import load_run

    with join_world(arguments.device) as world:
        runs = [load_run(folder, world.device, arguments.kernel) for folder in arguments.run]
        if arguments.kind == "gradients":
            made = make_gradients(runs, image, arguments.caption)
        else:
            made = make_attention(runs, image, arguments.caption, arguments.words, arguments.head)
    name = f"{arguments.kind}-{slug(arguments.image.stem)}"
    paths = made.write(arguments.out or arguments.run[0] / "maps", name)
    print(made.table, *paths, sep="\n")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point: a person's mistake is one sentence and exit code 2."""
    return exit_code(lambda: run(parse(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    sys.exit(main())

"""python -m hive.maps gradients|attention --run DIR [DIR ...] --image FILE --caption TEXT"""

import sys
from itertools import chain

from hive.command import exit_code
from hive.errors import UserError
from hive.maps.cli import Attention, Gradients, parse


def run(command: Gradients | Attention) -> int:
    """Draws one figure, prints its numbers and paths, and returns the exit code."""
    try:
        image = command.image.read_bytes()
    except OSError as error:
        raise UserError(f"--image {command.image} can't be read ({error.strerror}): give an image file.") from error
    # torch takes seconds to import: --help and mistyped flags answer without it
    from hive.distributed import join_world
    from hive.maps.make import make_attention, make_gradients, slug
    from hive.train.trained import load_run

    with join_world(command.device) as world:
        runs = [load_run(folder, world.device, command.kernel) for folder in command.runs]
        if isinstance(command, Attention):
            words, head = list(chain(*command.words)), command.head
            figure = make_attention(runs, image, command.caption, words, head if isinstance(head, int) else None)
        else:
            figure = make_gradients(runs, image, command.caption)
    name = f"{type(command).__name__.lower()}-{slug(command.image.stem)}"
    paths = figure.write(command.out or command.runs[0] / "maps", name)
    print(figure.table, *paths, sep="\n")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 2 with one sentence for a user's mistake, 130 for Ctrl-C."""
    return exit_code(lambda: run(parse(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    sys.exit(main())

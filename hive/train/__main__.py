"""python -m hive.train: pre-trains a vision encoder through a language model, in three stages."""

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hive.command import exit_code, open_console, say_once
from hive.train.cli import Command, parse

if TYPE_CHECKING:
    from hive.data.pairs import Pairs
    from hive.train.trained import Run


Draw = Callable[["Run", Mapping[str, "Pairs"]], str]
"""From what was trained and the held-out pairs by split: draws into the run folder; returns the line about it."""


def draw_maps(run: "Run", heldout: Mapping[str, "Pairs"]) -> str:
    """Draws what the model attends to; returns a line about it, also where drawing fails: the run must not fail too."""
    try:
        from hive.maps.heldout import draw_heldout

        return f"maps        {draw_heldout(run, heldout)}"
    except Exception as error:
        return f"warning: The maps could not be drawn ({error}): try python -m hive.maps."


def run(command: Command, draw: Draw = draw_maps) -> int:
    """Runs what the command line asked for, and draws at the end of a run; returns the exit code."""
    # torch and transformers take seconds to import, and --help and mistyped flags need neither
    if command.dry_run:
        from hive.train.dry_run import report
        from hive.train.outline import outline

        print(report(outline(command.config, command.resume is not None)))
        return 0

    from hive.distributed import join_world
    from hive.train.pretraining import pretraining
    from hive.train.trained import Run
    from hive.train.trainer import Trainer, handling_signals

    console, resume = open_console(), command.resume is not None
    with join_world(command.config.device) as world:
        task = pretraining(command.config, resume, world)
        if command.lr_range_test is not None:
            from hive.train.lr_range import print_range_test

            print_range_test(task, command.lr_range_test, world)
            return 0
        trainer = Trainer(task, resume, world, console, profile=command.profile)
        with handling_signals(trainer.stop):  # a run that is finished is not lost to one while maps are drawn
            code = trainer.run()
            if code == 0 and world.is_main:
                trained = Run(trainer.folder, task.config, task.model.eval(), task.tokenizer, trainer.position.step)
                line = draw(trained, task.sets[trainer.position.stage].heldout)
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            world.barrier()
    return code


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return exit_code(
        lambda: run(parse(sys.argv[1:] if argv is None else argv)), when_full="continue with --resume", say=say_once
    )


if __name__ == "__main__":
    sys.exit(main())

"""A run's losses as a picture, and the mean that makes a noisy curve readable."""

from collections.abc import Sequence
from pathlib import Path

from hive.files import METRICS, read_records


def plot_losses(folder: Path) -> Path:
    """Draws loss_curve.png and returns its path: training loss by stage, held-out loss with right and wrong images."""
    from matplotlib.figure import Figure

    records = read_records(folder / METRICS)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for stage, colour in ((1, "tab:grey"), (2, "tab:blue"), (3, "tab:green")):
        train = [record for record in records if record["kind"] == "train" and record["stage"] == stage]
        if not train:
            continue
        steps, losses = [record["step"] for record in train], [record["loss"] for record in train]
        axes.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, smoothed(losses), color=colour, label=f"training, stage {stage}")
    held_out = [record for record in records if record["kind"].startswith("heldout") and record["right"] is not None]
    for split, marker in zip(dict.fromkeys(record["kind"] for record in held_out), "os^Dv", strict=False):
        points = [record for record in held_out if record["kind"] == split]
        steps, name = [point["step"] for point in points], split.removeprefix("heldout/").replace("_", " ")
        axes.plot(steps, [point["right"] for point in points], marker, color="black", label=f"{name}, right image")
        axes.plot(
            steps,
            [point["wrong"] for point in points],
            marker,
            color="tab:red",
            fillstyle="none",
            label=f"{name}, wrong image",
        )
    axes.set(xlabel="step", ylabel="loss (nats a token)", title="Caption loss")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(folder / "loss_curve.png", dpi=130)
    return folder / "loss_curve.png"


def smoothed(values: Sequence[float], half: int | None = None) -> list[float]:
    """Centred mean over `half` values on each side, a fortieth of all in sum where it is not given.

    Unlike a trailing mean it has no lag.
    """
    half = half or max(1, len(values) // 80)
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]

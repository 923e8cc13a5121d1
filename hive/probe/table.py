"""A table of our accuracies and of those in the paper's Table 1."""

from collections.abc import Sequence

from hive.probe.protocol import Protocol
from hive.probe.run import HeadResult

SETS = ("cifar-10", "cifar-100", "imagenet-1k", "tiny-imagenet", "food-101", "cars", "pets", "caltech-256")
PAPER = {  # by the tower's family: top-1 accuracy and deviation of three runs, in %, in the order of SETS
    "clip": {
        "Base": "98.32 0.04  87.92 0.08  84.01 0.01  86.65 0.11  95.75 0.03  91.17 0.04  96.02 0.10  96.12 0.08",
        "SA": "98.37 0.01  87.93 0.06  84.14 0.02  86.51 0.04  95.77 0.03  91.04 0.13  95.98 0.05  96.27 0.10",
        "HIVE": "98.49 0.01  88.49 0.07  84.08 0.00  86.71 0.08  95.78 0.03  91.15 0.23  95.92 0.07  96.35 0.11",
    },
    "siglip": {
        "Base": "98.43 0.01  90.08 0.11  85.99 0.02  82.27 0.20  96.55 0.01  94.86 0.15  96.76 0.04  97.27 0.09",
        "SA": "98.42 0.04  89.97 0.10  86.04 0.07  82.46 0.10  96.55 0.03  94.85 0.20  96.76 0.08  97.27 0.05",
        "HIVE": "98.45 0.04  90.19 0.15  86.06 0.02  82.48 0.05  96.56 0.03  95.09 0.19  96.78 0.02  97.33 0.11",
    },
}
FULL_NAME = {"clip": "CLIP ViT-L/14-336", "siglip": "SigLIP L/16-384"}
LABEL = {
    "attention": "attention pooling",
    "mean": "linear on the mean token",
    "cls": "linear on the class token",
}


def paper_rows(dataset: str, family: str) -> dict[str, tuple[float, float]]:
    """Returns (accuracy, deviation) in % of Base, SA and HIVE; empty for a set or a family that Table 1 lacks."""
    if dataset not in SETS or family not in PAPER:
        return {}
    column = 2 * SETS.index(dataset)
    rows = {method: [float(number) for number in row.split()] for method, row in PAPER[family].items()}
    return {method: (row[column], row[column + 1]) for method, row in rows.items()}


def table(dataset: str, family: str, results: Sequence[HeadResult], protocol: Protocol) -> str:
    """Returns a text table with aligned columns: our rows, then the paper's."""
    rows = [f"{dataset}, test accuracy in %".ljust(40) + f"{'learning rate':>15}{'weight decay':>14}{'validation':>12}"]
    for result in results:
        chosen = 100 * max(_average_seeds(result.validation))
        rows.append(
            f"{LABEL[result.head]:<26}{_format_accuracy(100 * result.mean, result.deviation):<14}"
            f"{result.learning_rate:>15g}{result.weight_decay:>14g}{chosen:>12.2f}"
        )
    for method, (accuracy, deviation) in paper_rows(dataset, family).items():
        rows.append(
            f"{f'paper: {method}':<26}{accuracy:.2f} ± {deviation:.2f}    {FULL_NAME[family]}, attention pooling"
        )
    rows.append(
        f"mean ± deviation of {protocol.seeds} seeds; the best of {len(protocol.grid)} grid points in validation"
    )
    largest = max(protocol.learning_rates)
    if len(protocol.learning_rates) > 1 and any(result.learning_rate == largest for result in results):
        rows.append(f"{largest:g} is the grid's largest learning rate: a larger one, or more epochs, may do better")
    return "\n".join(rows)


def _format_accuracy(accuracy: float, deviation: float | None) -> str:
    """Returns an accuracy in % with its deviation, a share of 1."""
    return f"{accuracy:.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}")


def _average_seeds(validation: list[list[float]]) -> list[float]:
    """Returns the mean over the seeds of each grid point."""
    return [sum(point) / len(point) for point in zip(*validation, strict=True)]

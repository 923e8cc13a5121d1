"""--dry-run: what the comparison would train and what that costs."""

from collections.abc import Sequence

from hive.claim.cost import Texts, flops_an_image, run_cost
from hive.claim.plan import Row, Setting


def report(setting: Setting, rows: Sequence[Row], texts: Texts, seeds: Sequence[int]) -> str:
    """Returns a text table of every row's steps, images and FLOPs; and an estimate of the time if a speed is known."""
    language = setting.base.language.weights or "with fresh weights"
    lines = [
        f"setting {setting.name}: {setting.base.data}, {texts.pairs:,} pairs, language model {language}, seeds "
        + ", ".join(map(str, seeds)),
        "",
        f"{'tower':<27}{'steps of the stages':>20}{'images':>11}{'PFLOP a run':>13}  differs from HIVE in",
    ]
    total = 0.0
    for row in rows:
        cost = run_cost(row.config, texts)
        steps = " ".join(f"{n:,}" for n in cost.steps)
        if row.pretrained:
            total += cost.flops * len(seeds)
            lines.append(f"{row.name:<27}{steps:>20}{cost.images:>11,}{cost.flops / 1e15:>13.3g}  {row.words}")
        else:
            lines.append(f"{row.name:<27}{'':>20}{0:>11}{0:>13}  {row.words}")
    lines += ["", f"{total / 1e15:.3g} PFLOP of training in all, {len(seeds)} seeds of each."]
    if setting.images_per_second is not None:
        rate = setting.images_per_second * flops_an_image(setting.base, texts)[-1]
        lines.append(
            f"Estimate, not a measurement: {total / rate / 60:.0f} minutes of training, if every row trains at the "
            f"{rate / 1e12:.2f} TFLOP/s at which HIVE's stage 3 does {setting.images_per_second:.0f} images/s on two "
            "CPU cores; evaluation comes on top."
        )
    return "\n".join(lines)

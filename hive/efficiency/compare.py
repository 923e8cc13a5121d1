"""Rows of the comparison: one method in one stage on texts of some lengths, counted, simulated and measured."""

import dataclasses
import gc
from collections.abc import Generator, Iterator
from itertools import cycle

import torch

from hive.config import Config
from hive.cost.cases import Texts, empty_batch, random_batch
from hive.cost.counted import Counted
from hive.cost.flops import Cost, step_flops
from hive.cost.methods import Method, Subject, build, configured, spec_of
from hive.cost.simulate import StageShape, Step, biggest_micro_batch, count_flops, simulate
from hive.data.loader import batches
from hive.data.pairs import open_pairs
from hive.data.text import Batch, load_tokenizer
from hive.efficiency.machine import is_out_of_memory
from hive.efficiency.measure import STEPS, Measured, measure
from hive.stages import trained_parts

GIB = 2**30
CAPACITIES = (24, 48, 80)  # GiB
STEPS_A_RUN = {"cuda": 5, "cpu": 1}
CONTEXT = GIB  # bytes of a GPU that CUDA's context, cuBLAS and the allocator's gaps take


@dataclasses.dataclass
class Row:
    """A method's cost in a stage: FLOPs of a sample, bytes of a step on `samples` samples in one micro-batch."""

    recipe: str
    method: Method
    stage: int
    text: str
    text_tokens: float
    """Tokens a caption, on average."""
    samples: int
    parts: dict[str, Cost]
    """FLOPs by part of the model, by the closed form."""
    counted: Counted
    """FLOPs by torch's counter."""
    step: Step
    """Memory of a step, simulated."""
    measured: Measured | None = None
    remark: str = ""
    """The reason, where nothing was measured."""

    @property
    def everything(self) -> float:
        """FLOPs by the closed form, vision tower included."""
        return sum(cost.total for cost in self.parts.values())

    @property
    def language_side(self) -> float:
        """FLOPs of projector, fusion, language model and head, by the closed form."""
        return self.everything - self.parts["tower"].total


def count(config: Config, method: Method, stages: tuple[int, ...], texts: Texts, precision: torch.dtype) -> list[Row]:
    """Returns a row for each stage, without measurements: FLOPs by formula and by counter, memory by simulation.

    `precision` is autocast's dtype: bf16, or fp32 as on a CPU.
    """
    config = configured(config, method)
    model, samples = on_meta(config, method), len(texts.lengths)
    shapes = [stage_shape(config, model, stage, texts.lengths) for stage in stages]
    closed = [step_flops(model, shape.parts, samples, texts.lengths) for shape in shapes]
    steps = simulate(model, shapes, precision)
    counts = count_flops(on_meta(config, method), shapes)
    return [
        Row(
            config.recipe,
            method,
            stage,
            texts.name,
            texts.mean,
            samples,
            {name: Cost(cost.forward / samples, cost.backward / samples) for name, cost in parts.items()},
            Counted(counted.tower / samples, counted.everything / samples),
            step,
        )
        for stage, parts, counted, step in zip(stages, closed, counts, steps, strict=True)
    ]


def on_meta(config: Config, method: Method) -> Subject:
    """Returns the method's model on the meta device: shapes without data."""
    with torch.device("meta"):
        return build(config, method, "torch")


def stage_shape(config: Config, model: Subject, stage: int, lengths: tuple[int, ...]) -> StageShape:
    """Returns a stage whose batch is one micro-batch of captions of these lengths."""
    schedule = dataclasses.replace(config.schedule(stage), batch_size=len(lengths))
    return StageShape(trained_parts(config, stage), schedule, empty_batch(lengths, model))


def fitting(
    config: Config, method: Method, stage: int, text_tokens: int, capacities: tuple[int, ...] = CAPACITIES
) -> list[int]:
    """Returns the biggest micro-batch, in samples, that fits into a GPU of each of the capacities, in GiB."""
    config = configured(config, method)
    model = on_meta(config, method)
    return biggest_micro_batch(
        lambda: on_meta(config, method),
        lambda samples: stage_shape(config, model, stage, (text_tokens,) * samples),
        [capacity * GIB - CONTEXT for capacity in capacities],
        torch.bfloat16,
    )


def measure_rows(
    config: Config, rows: list[Row], texts: Texts, device: torch.device, backend: str, runs: int
) -> Iterator[Row]:
    """Measures the rows, all of one method on `texts`, and yields them; a row that does not fit gets a remark."""
    method = rows[0].method
    settings = configured(config, method)
    with torch.device(device):
        model = build(settings, method, backend)
    for row in rows:
        stream = _batches(config, model, texts, device, runs)
        parts, schedule = trained_parts(settings, row.stage), settings.schedule(row.stage)
        try:
            row.measured = measure(
                model, parts, schedule, stream, device, runs=runs, steps_a_run=STEPS_A_RUN[device.type]
            )
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            room = torch.cuda.mem_get_info(device)[1] // GIB
            (fits,) = fitting(config, method, row.stage, round(texts.mean), (room,))
            most = min(fits, row.samples - 1)
            row.remark = f"{row.samples} samples do not fit into {room} GiB; {most} are the most that do, by simulation"
        finally:
            stream.close()
        model.zero_grad(set_to_none=True)
        gc.collect()
        yield row


def _batches(
    config: Config, model: Subject, texts: Texts, device: torch.device, runs: int
) -> Generator[Batch, None, None]:
    """Yields micro-batches: noise, or the recipe's pairs through its loader; in pinned memory for a GPU."""
    pin, samples = device.type == "cuda", len(texts.lengths)
    if texts.name != "data":
        noise = [random_batch(texts.lengths, model, seed=seed) for seed in range(2)]
        yield from cycle([batch.pin_memory() for batch in noise] if pin else noise)
    loader = batches(
        open_pairs(config.data, config.image_root, config.dataset),
        load_tokenizer(config.language.tokenizer or config.language.weights),
        spec_of(model),
        config.dataset,
        seed=config.seed,
        batch_size=samples,
        micro_batch_size=samples,
        first_step=0,
        steps=STEPS + runs * STEPS_A_RUN[device.type],
        augment=False,
        pin=pin,
    )
    for (batch,) in loader:
        yield batch

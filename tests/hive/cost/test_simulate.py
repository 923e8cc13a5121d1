"""The simulated peak against sizes that can be added up by hand, and against a simulation of every micro-batch."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hive.config import Schedule
from hive.cost.cases import empty_batch
from hive.cost.simulate import PeakBytes, StageShape, simulate
from hive.model.build import Model, build_model
from hive.model.frozen_tower import FrozenTower
from hive.optimizer import build_optimizer
from hive.stages import enter_stage, trained_parts
from tests.support.tiny_models import TINY


def on_meta() -> Model:
    with torch.device("meta"):
        return build_model(TINY, "torch", pretrained=False)


def shape(model: Model, stage: int, samples: int, batch_size: int) -> StageShape:
    schedule = replace(Schedule(), batch_size=batch_size)
    return StageShape(trained_parts(TINY, stage), schedule, empty_batch((5,) * samples, model))


def step_bytes(model: Model, shapes: list[StageShape], precision: torch.dtype) -> list[int]:
    return [step.peak for step in simulate(model, shapes, precision)]


def test_live_and_peak_by_hand() -> None:
    with FakeTensorMode(), PeakBytes() as memory:
        a = torch.empty(100, dtype=torch.float32)
        b = a + 1
        assert memory.live == 800
        view = b[:10]
        del b
        assert memory.live == 800, "a view keeps its storage"
        del view, a
        assert (memory.live, memory.peak) == (0, 800)


def test_a_step_holds_weights_gradients_and_moments() -> None:
    model = on_meta()
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for part in model.parts().values() for parameter in part)
    shapes = [shape(model, 3, samples, samples) for samples in (1, 101, 201)]
    peaks = step_bytes(model, shapes, torch.float32)
    states = 4 * total + (4 + 8) * trained
    assert states <= peaks[0] < 1.5 * states
    per_sample = (peaks[2] - peaks[1]) / 100
    assert per_sample > 4 * 5 * 4 * 16 * 10, "each of 3 layers keeps several states of 5 tokens and 16 channels"


@pytest.mark.parametrize("micro_batches", [1, 2, 3])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_micro_batch_in_turn_peaks_as_high(stage: int, micro_batches: int) -> None:
    model = on_meta()
    item = shape(model, stage, 50, 50 * micro_batches)
    (peak,) = step_bytes(model, [item], torch.float32)

    model = on_meta()
    with FakeTensorMode(allow_non_fake_inputs=True), PeakBytes() as memory:
        model.to_empty(device="cpu")
        model.language.model.tie_weights()
        batch = item.micro_batch.map(lambda tensor: torch.empty_like(tensor, device="cpu"))
        optimizer = build_optimizer(enter_stage(model, item.parts), item.schedule)
        encode = model.tower if stage == 3 else FrozenTower(model.tower, torch.float32)
        for _ in range(2):
            for _ in range(micro_batches):
                loss = model(batch, encode)
                loss.backward()
                del loss
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    assert peak == pytest.approx(memory.peak, rel=0.001)


def test_a_frozen_towers_copy_lies_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = on_meta()
    layers = 2 * sum(p.numel() for layer in model.tower.read_layers for p in layer.parameters() if p.ndim > 1)
    patches = 2 * model.tower.parts.embeddings.get_parameter("patch_embedding.weight").numel()
    (copied,) = step_bytes(model, [shape(model, 2, 1, 1)], torch.bfloat16)
    monkeypatch.setattr("hive.cost.methods.FrozenTower", lambda tower, dtype: tower)
    model = on_meta()
    (alone,) = step_bytes(model, [shape(model, 2, 1, 1)], torch.bfloat16)
    assert copied - alone == pytest.approx(layers + patches, rel=0.1)


def test_a_tied_embedding_is_there_once() -> None:
    model = on_meta()
    assert TINY.language.tied_embeddings
    sizes = [parameter.numel() for parameter in model.parameters()]
    trained = [parameter.numel() for part in model.parts().values() for parameter in part]
    (step,) = simulate(model, [shape(model, 3, 2, 2)], torch.float32)
    assert (step.parameters, step.gradients) == (4 * sum(sizes), 4 * sum(trained))


def test_gradients_lie_beside_the_next_micro_batch() -> None:
    model = on_meta()
    trained = sum(parameter.numel() for part in model.parts().values() for parameter in part)
    once, twice = step_bytes(model, [shape(model, 3, 200, size) for size in (200, 400)], torch.float32)
    assert twice - once == pytest.approx(4 * trained, rel=0.1)


def test_stages_do_not_leave_memory_behind() -> None:
    model = on_meta()
    low, _, again = step_bytes(model, [shape(model, stage, 10, 10) for stage in (1, 3, 1)], torch.float32)
    assert low == again

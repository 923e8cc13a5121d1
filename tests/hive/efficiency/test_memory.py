"""The simulated peak against sizes that can be added up by hand."""

import sys
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hive.config import Schedule
from hive.efficiency.memory import PeakBytes, step_bytes
from hive.model.build import build_model
from hive.stages import trained_parts
from hive.train.dry_run import empty_batch

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
from tiny_models import TINY


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
    peaks = []
    for samples in (1, 101, 201):
        with torch.device("meta"):
            model = build_model(TINY, "torch", pretrained=False)
        total = sum(parameter.numel() for parameter in model.parameters())
        trained = sum(parameter.numel() for part in model.parts().values() for parameter in part)
        batch = empty_batch(samples, 5, model)
        peaks.append(step_bytes(model, trained_parts(TINY, 3), Schedule(), batch, torch.float32))
    states = 4 * total + (4 + 8) * trained
    assert states <= peaks[0] < 1.5 * states
    per_sample = (peaks[2] - peaks[1]) / 100
    assert per_sample > 4 * 5 * 4 * 16 * 10, "each of 3 layers keeps several states of 5 tokens and 16 channels"

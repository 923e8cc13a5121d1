"""The injection check against textbook attention in fp64, what it warns of, and that it changes nothing."""

import dataclasses
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from hive import checkpoint
from hive.config import Config
from hive.cost.simulate import PeakBytes
from hive.data.ledger import Ledger
from hive.data.text import Batch
from hive.data.tokenizer_files import EMBEDDED_TOKENIZER
from hive.distributed import World, join_world
from hive.files import INJECTION
from hive.model.build import build_model
from hive.model.fusion import CrossAttentionBlock, HierarchicalFusion
from hive.model.hive import HiveModel
from hive.train.cli import parse
from hive.train.injection import InjectionCheck, check_injection, describe, record_check
from hive.train.meter import Meter
from hive.train.pretraining import pretraining
from hive.train.telemetry import Telemetry
from hive.train.trainer import Trainer
from tests.support.tiny_models import JOINT, TINY, tiny_batch, tiny_hive
from tests.support.tiny_run import TINY as FLAGS
from tests.support.tiny_run import last_checkpoint, records

PLAIN = dataclasses.replace(TINY, gate=False)
HEADS, GROUP, DIM, PATCHES = 6, 3, 4, 4
CONFIGS = pytest.mark.parametrize("config", [TINY, PLAIN, JOINT], ids=["gate", "no gate", "joint"])


def check(model: HiveModel, batch: Batch, *, stage: int = 1, step: int = 0, trained: bool = True) -> InjectionCheck:
    return check_injection(model, batch, model.tower, stage=stage, step=step, trained=trained)


def blocks(model: HiveModel) -> list[CrossAttentionBlock]:
    assert isinstance(model.fusion, HierarchicalFusion)
    return [block for block in model.fusion.blocks if isinstance(block, CrossAttentionBlock)]


@torch.no_grad()
def sharpened(config: Config) -> HiveModel:
    """A model that attends to some patches more than to others, as a fresh one does not."""
    model = tiny_hive(config)
    model.fusion.key_value.mul_(60)
    return model


def numbers(result: InjectionCheck) -> list[float]:
    """The losses and each depth's numbers."""
    rows = [dataclasses.astuple(depth) for depth in result.depths]
    return [result.text_loss, result.loss, *(number for row in rows for number in row if number is not None)]


class Caught:
    """The inputs and outputs of modules in one pass of the model, by hooks."""

    def __init__(self, model: HiveModel, batch: Batch, modules: dict[str, nn.Module]) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        for name, module in modules.items():
            module.register_forward_hook(self.catch(name), with_kwargs=True)
        with torch.no_grad():
            self.loss = model(batch)

    def catch(self, name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple, named: dict, output: Tensor) -> None:
            self.inputs[name], self.outputs[name] = inputs[0], output

        return hook


def mean_and_shape(weights: list[Tensor], logits: list[Tensor]) -> tuple[float, float]:
    """Mean entropy as a share of log N and mean spread, of each token's and head's attention [N]."""
    entropies = [-sum(w.item() * math.log(w.item()) for w in row) / math.log(PATCHES) for row in weights]
    spreads = [math.sqrt(((row - row.mean()) ** 2).mean().item()) for row in logits]
    return sum(entropies) / len(entropies), sum(spreads) / len(spreads)


@pytest.mark.parametrize("config", [TINY, PLAIN], ids=["gate", "no gate"])
def test_cross_attention_against_its_definition(config: Config) -> None:
    model, batch = sharpened(config).double(), tiny_batch((3, 5, 2))
    modules: dict[str, nn.Module] = {f"block{s}": block for s, block in enumerate(blocks(model))}
    modules |= {f"query{s}": block.query for s, block in enumerate(blocks(model))}
    caught = Caught(model, batch, {**modules, "projector": model.projector})
    result = check(model, batch)

    assert result.loss == pytest.approx(caught.loss.item() / 10)
    assert [(depth.decoder_layer, depth.hidden_state) for depth in result.depths] == [(2, 1), (4, 3)]
    for s, depth in enumerate(result.depths):
        query = caught.outputs[f"query{s}"].view(-1, HEADS, DIM)
        keys = (caught.outputs["projector"][s] @ model.fusion.key_value[s])[..., : 2 * DIM].view(3, PATCHES, 2, DIM)
        sample = [0] * 3 + [1] * 5 + [2] * 2
        logits = [keys[sample[t], :, h // GROUP] @ query[t, h] / 2 for t in range(10) for h in range(HEADS)]
        entropy, spread = mean_and_shape([row.softmax(0) for row in logits], logits)
        assert 0.3 < entropy < 0.99
        assert depth.entropy == pytest.approx(entropy, rel=1e-5)
        assert depth.spread == pytest.approx(spread, rel=1e-5)
        before, after = caught.inputs[f"block{s}"], caught.outputs[f"block{s}"]
        ratios = sorted(((after - before).norm(dim=-1) / before.norm(dim=-1)).tolist())
        assert depth.update == pytest.approx(ratios[4], rel=1e-5)  # the lower of the two in the middle
        assert depth.gate == (None if config is PLAIN else pytest.approx(math.tanh(0.7)))
        assert depth.image_share is None


def test_joint_fusion_against_its_definition() -> None:
    model, batch = sharpened(JOINT).double(), tiny_batch((3, 5, 2))
    model.language.model.requires_grad_(False)
    layers = {depth: model.language.model.model.layers[depth] for depth in model.fusion.depths}
    modules = {f"{kind}{d}": getattr(layer.self_attn, f"{kind}_proj") for d, layer in layers.items() for kind in "qkv"}
    modules |= {f"norm{depth}": layer.input_layernorm for depth, layer in layers.items()}
    caught = Caught(model, batch, {**modules, "projector": model.projector})
    result = check(model, batch)

    assert result.loss == pytest.approx(caught.loss.item() / 10)
    cos, sin = model.language.model.model.rotary_emb(caught.inputs["norm2"], batch.positions[None])
    for s, depth in enumerate(result.depths):
        d = depth.decoder_layer
        query, key, value = (caught.outputs[f"{kind}{d}"].view(1, 10, -1, DIM).transpose(1, 2) for kind in "qkv")
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        image = caught.outputs["projector"][s] @ model.fusion.key_value[s]
        image_key, image_value = (half.view(3, PATCHES, 2, DIM) for half in image.split(2 * DIM, dim=-1))
        with_image, without = torch.zeros(10, HEADS, DIM).double(), torch.zeros(10, HEADS, DIM).double()
        logits, weights, shares = [], [], []
        for sample, (start, end) in enumerate([(0, 3), (3, 8), (8, 10)]):
            for t in range(start, end):
                for h in range(HEADS):
                    g, text = h // GROUP, slice(start, t + 1)
                    on_image = image_key[sample, :, g] @ query[0, h, t] / 2
                    on_text = key[0, g, text] @ query[0, h, t] / 2
                    joint = torch.cat([on_image, on_text]).softmax(0)
                    with_image[t, h] = joint @ torch.cat([image_value[sample, :, g], value[0, g, text]])
                    without[t, h] = on_text.softmax(0) @ value[0, g, text]
                    logits.append(on_image)
                    weights.append(joint[:PATCHES] / joint[:PATCHES].sum())
                    shares.append(joint[:PATCHES].sum().item())
        entropy, spread = mean_and_shape(weights, logits)
        assert 0.3 < entropy < 0.99
        assert depth.entropy == pytest.approx(entropy, rel=1e-5)
        assert depth.spread == pytest.approx(spread, rel=1e-5)
        assert depth.image_share == pytest.approx(sum(shares) / len(shares), rel=1e-5)
        update = (with_image - without).flatten(1) @ layers[d].self_attn.o_proj.weight.T
        ratios = sorted((update.norm(dim=-1) / caught.inputs[f"norm{d}"].norm(dim=-1)).tolist())
        assert depth.update == pytest.approx(ratios[4], rel=1e-5)
        assert depth.gate is None


@CONFIGS
def test_the_text_only_loss_is_transformers(config: Config) -> None:
    model, batch = sharpened(config).double(), tiny_batch((4,))
    logits = model.language.model(input_ids=batch.tokens[None]).logits[0]
    result = check(model, batch)
    assert result.text_loss == pytest.approx(F.cross_entropy(logits, batch.targets).item())
    assert abs(result.loss - result.text_loss) > 1e-4


def test_a_closed_gate_adds_nothing() -> None:
    model, batch = sharpened(TINY), tiny_batch()
    with torch.no_grad():
        for block in blocks(model):
            assert block.gate is not None
            block.gate.zero_()
    result = check(model, batch)
    assert result.loss == result.text_loss
    assert [(depth.update, depth.gate) for depth in result.depths] == [(0, 0), (0, 0)]
    assert result.warnings == ()
    assert describe(result).splitlines()[2].split()[-2:] == ["0.000", "0.000"]


@torch.no_grad()
def knowing(config: Config) -> tuple[HiveModel, Batch]:
    """A language model that predicts its batch well, into which the images are injected with much force."""
    model, batch = tiny_hive(config), tiny_batch((3, 5, 2))
    model.language.parts.embedding.weight.mul_(50)  # each token predicts itself
    model.fusion.key_value.mul_(1e5)
    return model, dataclasses.replace(batch, targets=batch.tokens)


@pytest.mark.parametrize(
    ("config", "cure"),
    [(PLAIN, "start again with --gate"), (JOINT, "--fusion cross and --gate"), (TINY, "a lower peak learning rate")],
    ids=["no gate", "joint", "open gate"],
)
def test_injection_that_multiplies_the_loss(config: Config, cure: str) -> None:
    result = check(*knowing(config), stage=2)
    assert result.loss > 1.2 * result.text_loss
    (warning,) = result.warnings
    factor, before, after = result.loss / result.text_loss, result.text_loss, result.loss
    assert f"multiplies the loss by {factor:.2f}, from {before:.2f} with the text alone to {after:.2f}" in warning
    assert cure in warning
    assert f"\nwarning: {warning}" in describe(result)


def test_a_loss_that_is_not_finite() -> None:
    model, batch = knowing(TINY)
    with torch.no_grad():
        blocks(model)[0].output.weight.fill_(math.nan)
    (warning,) = check(model, batch).warnings
    assert "with the images, and a loss that is not finite trains nothing" in warning


@CONFIGS
def test_uniform_attention(config: Config) -> None:
    """Queries of zero; at the second depth only, as the text's attention in joint fusion goes on without them."""
    model, batch = sharpened(config), tiny_batch()
    hosts = model.language.attention_parts(model.fusion.depths)
    query = hosts[4].query if config is JOINT else blocks(model)[1].query
    with torch.no_grad():
        query.weight.zero_()
    result = check(model, batch)
    assert result.depths[1].entropy == pytest.approx(1)
    assert result.depths[1].spread == 0
    (warning,) = result.warnings
    assert "uniform to 0.1% at decoder layer 4, " in warning
    assert "the mean of the 4 patches" in warning
    assert "--vision.weights" in warning
    assert "the stage before for longer" in check(model, batch, step=4).warnings[0]
    assert check(model, batch, trained=False).warnings == ()  # fresh weights always begin so


def test_an_image_of_one_patch() -> None:
    """Its attention can't be anything but uniform, which is no reason for a warning."""
    vision = dataclasses.replace(TINY.vision, patch_size=16)
    result = check(tiny_hive(dataclasses.replace(TINY, vision=vision)), tiny_batch())
    assert [(depth.entropy, depth.spread) for depth in result.depths] == [(0, 0), (0, 0)]
    assert result.warnings == ()


@CONFIGS
@pytest.mark.parametrize("compiled", [False, True])
def test_the_check_changes_nothing(config: Config, compiled: bool) -> None:
    config = dataclasses.replace(config, checkpoint_activations=True)
    model, batch = tiny_hive(config), tiny_batch()
    graphs: list[torch.fx.GraphModule] = []
    if compiled:

        def backend(graph: torch.fx.GraphModule, _inputs: object) -> torch.fx.GraphModule:
            graphs.append(graph)
            return graph

        model.language.decoder_layer = torch.compile(model.language.decoder_layer, dynamic=True, backend=backend)
    model.tower.requires_grad_(False)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    random = torch.get_rng_state()
    result = check(model, batch)
    assert graphs == []  # which would take longer than the check
    loss = model(batch)
    assert bool(graphs) == compiled
    assert result.loss == pytest.approx(loss.item() / batch.token_count)
    check(model, batch)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(model(batch), loss)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@CONFIGS
def test_the_fused_kernels_give_the_same_numbers(config: Config) -> None:
    batch = tiny_batch((3, 2))
    ours, reference = (check(tiny_hive(config, backend), batch) for backend in ("triton", "reference"))
    assert numbers(ours) == pytest.approx(numbers(reference), rel=1e-4)


@pytest.mark.parametrize("config", [PLAIN, JOINT], ids=["cross", "joint"])
def test_bf16_autocast(config: Config) -> None:
    model, batch = sharpened(config), tiny_batch()
    exact = check(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = check(model, batch)
    assert rough != exact
    assert numbers(rough) == pytest.approx(numbers(exact), rel=0.05)


@pytest.mark.parametrize("config", [PLAIN, JOINT], ids=["cross", "joint"])
def test_the_check_needs_less_memory_than_a_step(config: Config) -> None:
    """With long texts and many patches: the attention of a whole depth at once would need more."""
    vision = dataclasses.replace(config.vision, image_size=64, patch_size=4)
    model, batch = tiny_hive(dataclasses.replace(config, vision=vision)), tiny_batch((60,) * 16)
    batch = dataclasses.replace(batch, pixels=torch.zeros(16, 3, 64, 64, dtype=torch.uint8))
    model.requires_grad_(False)
    model.projector.requires_grad_(True)  # the stage that keeps the least for its backward pass
    with PeakBytes() as checking:
        check(model, batch)
    with PeakBytes() as training:
        model(batch).backward()
    assert checking.peak < training.peak
    assert checking.peak < batch.token_count * HEADS * model.tower.patches * 4


class Unchecked(Trainer):
    """Trains as before there was a check."""

    def check_injection(self, *_: object) -> None:
        """Does nothing."""


def run(trainer: type[Trainer], out: Path, *flags: str) -> str:
    """Trains two stages of two steps; returns what a person sees."""
    shown = io.StringIO()
    config = parse([*FLAGS, "--stages", "1,2", "--max-steps", "2", *flags, "--out", str(out)]).config
    with join_world("cpu") as world:
        task = pretraining(config, False, world)
        assert trainer(task, False, world, Console(file=shown)).run() == 0
    return shown.getvalue()


@pytest.mark.parametrize("flags", [("--no-gate",), ("--fusion", "joint")], ids=["cross", "joint"])
def test_a_run_with_the_check_is_bit_for_bit_one_without(flags: tuple[str, ...], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    shown = run(Trainer, tmp_path / "checked", "--micro-batch-size", "8", *flags)
    assert "injection" not in run(Unchecked, tmp_path / "plain", "--micro-batch-size", "8", *flags)
    assert shown.count("injection: the loss of 8 pairs is") == 2
    lines = [json.loads(line) for line in (tmp_path / "checked" / INJECTION).read_text().splitlines()]
    assert [(line["stage"], line["step"], len(line["depths"])) for line in lines] == [(1, 0, 2), (2, 2, 2)]
    first = [record["loss"] for record in records(tmp_path / "checked")][::2]  # the batch is one micro-batch
    assert [line["loss"] for line in lines] == pytest.approx(first, rel=1e-6)

    assert not (tmp_path / "plain" / INJECTION).exists()
    assert records(tmp_path / "checked", "") == records(tmp_path / "plain", "")
    ours, theirs = (checkpoint.load(last_checkpoint(tmp_path / name)).tensors for name in ("checked", "plain"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_who_is_warned_of_uniform_attention(tmp_path: Path) -> None:
    """A pretrained language model from the first stage on, a fresh one once a stage has trained what reads images."""
    fresh = run(Trainer, tmp_path / "fresh", "--no-gate")
    assert "warning" not in fresh[: fresh.index("stage 2")]
    assert "warning: Attention to the image is uniform to 0.1% at decoder layers 1, 3, " in fresh

    assert "warning" not in run(Trainer, tmp_path / "joint", "--fusion", "joint")  # stage 1 trains the projector alone

    config = parse(FLAGS).config
    build_model(config, "torch").language.model.save_pretrained(tmp_path / "weights")
    shutil.copytree(EMBEDDED_TOKENIZER, tmp_path / "weights", dirs_exist_ok=True)
    pretrained = run(Trainer, tmp_path / "pretrained", "--no-gate", "--language.weights", str(tmp_path / "weights"))
    assert "uniform to 0.1%" in pretrained[: pretrained.index("stage 2")]


def test_the_baseline_has_no_injection_to_check(tmp_path: Path) -> None:
    assert "injection" not in run(Trainer, tmp_path / "out", "--method", "self-attention")
    assert not (tmp_path / "out" / INJECTION).exists()


def test_a_stage_that_begins_again_replaces_its_line(tmp_path: Path) -> None:
    model, batch = tiny_hive(), tiny_batch()
    first, second, third = (check(model, batch, stage=stage, step=4 * stage) for stage in (1, 2, 3))
    for result in (first, second, third, second):
        record_check(result, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / INJECTION).read_text().splitlines()]
    assert [line["stage"] for line in lines] == [1, 2]
    record_check(dataclasses.replace(third, loss=math.nan), tmp_path)
    assert "NaN" not in (tmp_path / INJECTION).read_text()


def test_the_time_of_the_check_is_not_that_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    telemetry = Telemetry(tmp_path, Console(file=io.StringIO()), last_step=0)
    meter = Meter(telemetry, World(0, 1, torch.device("cpu")), lambda batch: 1.0, stage=1, done=0, steps=1)
    with meter.paused():
        now += 100
    now += 2
    batch = tiny_batch((3, 5))
    meter.add([batch], (torch.tensor(1.0), torch.tensor(1.0)), 1, 1e-3)
    meter.report(Ledger(tmp_path, 1.0, size=2))
    telemetry.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["images_per_second"] == 1
    assert meter.summary().startswith("stage 1 took 2 s: 1 images/s")

"""Writes the trained tower as a Hugging Face model, after it has been loaded back and compared."""

import copy
from pathlib import Path

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from hive.data.images import ImageSpec
from hive.export.card import transformers_form, write_card
from hive.export.facts import Facts
from hive.export.loading import check_same, evaluating, hidden_states, no_progress_bar, probe_image
from hive.export.place import SEAL, replacing, save_weights, seal, write_json
from hive.model.families import tower_family
from hive.model.families.tower import processor

LOCAL = ("_name_or_path", "torch_dtype", "output_hidden_states")
"""Settings that are not written: a local path, an alias, and what HIVE reads."""


def trained_form(tower: PreTrainedModel, facts: Facts) -> PreTrainedModel:
    """The tower as it is exported: up to the deepest trained hidden state, unless the run keeps its untrained layers.

    What follows that hidden state is made neutral, see `TowerFamily.neutralise_end`.
    """
    return tower if facts.keeps_untrained else ending_at(tower, facts.deepest, layers=max(1, facts.deepest))


def ending_at(tower: PreTrainedModel, deepest: int, layers: int) -> PreTrainedModel:
    """A copy of the tower with this number of layers, whose output is the hidden state `deepest` of the tower.

    Layers above `deepest` give their input: their branches add zero. The end is neutral. Raises `RuntimeError` where
    that hidden state of a fixed image is another one than the tower's.
    """
    ending = copy.deepcopy(tower)
    family = tower_family(ending)
    stack = family.parts(ending).layers
    while len(stack) < layers:
        stack.append(copy.deepcopy(stack[-1]))
    del stack[layers:]
    for layer in stack[deepest:]:
        branches = family.layer_parts(layer)
        for last in (branches.output, branches.fc2):
            torch.nn.init.zeros_(last.weight)
            torch.nn.init.zeros_(last.bias)
    ending.config.num_hidden_layers = layers
    family.neutralise_end(ending)
    image = probe_image(tower)
    expected = hidden_states(tower, image)[deepest]
    for state in hidden_states(ending, image)[deepest:]:
        check_same("transformers", state, expected)
    return ending


def export_tower(tower: PreTrainedModel, folder: Path, spec: ImageSpec, facts: Facts) -> None:
    """Writes a tower, which `trained_form` returned, with its image processor and model card; weights in fp32.

    transformers 4.57 and 5.x load it bit-equal with `AutoModel` or the tower's class, and `AutoImageProcessor`. It
    is written beside `folder`, loaded back, and compared: every weight and the last hidden state of a fixed image.
    Only then does it replace an earlier export. Raises `RuntimeError` when the comparison fails and `UserError` when
    `folder` holds something else or can't be written; both leave `folder` as it was.
    """
    with replacing(folder, "The tower") as temporary:
        write_settings(tower, temporary, spec)
        write_card(temporary, facts, tower, transformers_form(tower, facts))
        seal_tower(tower, temporary, facts)
        compare(tower, temporary)


def write_settings(tower: PreTrainedModel, folder: Path, spec: ImageSpec) -> None:
    """Writes the settings of a tower and of its image processor."""
    assert spec.size == tower.config.image_size, (spec.size, tower.config.image_size)
    # Those with default values too: programs that read them by a class of their own have other defaults.
    general = PreTrainedConfig().to_dict().keys()
    settings = tower.config.to_diff_dict() | {
        name: value for name, value in tower.config.to_dict().items() if name not in general
    }
    config = {name: value for name, value in settings.items() if name not in LOCAL}
    config |= {"architectures": [type(tower).__name__], "dtype": "float32"}
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", processor(spec))


def seal_tower(tower: PreTrainedModel, folder: Path, facts: Facts) -> None:
    """Writes the weights, which belong to the files that are already in the folder."""
    metadata = {**facts.metadata(), SEAL: seal(folder)}
    save_weights(weights_of(tower), folder / "model.safetensors", metadata)


def weights_of(tower: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Copies of the tower's weights in fp32 on the CPU, under the keys that every version of transformers reads."""
    prefix = tower_family(tower).export_prefix
    return {
        prefix + name.removeprefix(prefix): value.detach()
        .to("cpu", torch.float32)
        .clone(memory_format=torch.contiguous_format)
        for name, value in tower.state_dict().items()
    }


def compare(tower: PreTrainedModel, folder: Path) -> None:
    """Raises `RuntimeError` unless the export in `folder` has the weights of `tower` and computes the same."""
    with no_progress_bar():
        loaded, report = AutoModel.from_pretrained(
            folder,
            output_loading_info=True,
            local_files_only=True,
            attn_implementation=tower.config._attn_implementation,
        )
    if faults := {kind: names for kind, names in report.items() if names}:
        raise RuntimeError(f"The exported tower doesn't load back: {faults}.")
    if type(loaded) is not type(tower):
        raise RuntimeError(f"The exported {type(tower).__name__} loads as {type(loaded).__name__}.")
    expected, got = weights_of(tower), weights_of(loaded)
    wrong = [
        name
        for name in sorted({*expected, *got})
        if name not in expected or name not in got or not torch.equal(expected[name], got[name])
    ]
    if wrong or {value.dtype for value in loaded.state_dict().values()} != {torch.float32}:
        raise RuntimeError(f"The exported tower's weights are not those of the trained one: {wrong}.")
    image = probe_image(tower)
    with evaluating(tower):
        want = tower(pixel_values=image).last_hidden_state
        for exported, trained in zip(
            [*loaded.parameters(), *loaded.buffers()], [*tower.parameters(), *tower.buffers()], strict=True
        ):
            # The same device, strides and alignment give the same rounding.
            exported.data = torch.empty_like(trained).copy_(exported)
        have = loaded.eval()(pixel_values=image).last_hidden_state
    if not torch.equal(want, have):
        raise RuntimeError(
            "The exported tower computes something else than the trained one: its last hidden state "
            f"differs by up to {(want - have).abs().max().item():.2g}."
        )

"""What programs with vision transformers of their own have to know of a tower, and how they are compared with it."""

import importlib
from types import ModuleType

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hive.errors import UserError, first_line
from hive.export.loading import hidden_states, probe_image
from hive.model.families import tower_family


def require(module: str, extra: str) -> ModuleType:
    """The imported module; raises `UserError` with the extra to install where it is missing or broken."""
    install = f"pip install 'hive-pretraining[{extra}]'"
    if importlib.util.find_spec(module) is None:
        raise UserError(f"--to {extra.replace('-', '_')} needs {module}, which is not installed: {install}.")
    try:
        return importlib.import_module(module)
    except Exception as error:  # a library beside it may be of another build
        raise UserError(
            f"--to {extra.replace('-', '_')} needs {module}, which is installed but can't be imported "
            f"({first_line(error):.200}): mend that, or use another environment and {install} there."
        ) from None


def mlp_ratio(tower: PreTrainedModel) -> float:
    """The width of the MLP as a multiple of the tower's, by which `int(width * ratio)` gives it exactly."""
    width, hidden = tower.config.hidden_size, tower.config.intermediate_size
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def query_key_value(tower: PreTrainedModel, index: int) -> tuple[Tensor, Tensor]:
    """Weight [3 D, D] and bias [3 D] of a layer's query, key and value projections, one below the other."""
    family = tower_family(tower)
    layer = family.layer_parts(family.parts(tower).layers[index])
    projections = (layer.query, layer.key, layer.value)
    return torch.cat([part.weight for part in projections]), torch.cat([part.bias for part in projections])


def trained_features(form: PreTrainedModel, deepest: int) -> tuple[Tensor, Tensor]:
    """(a normalised image [1, 3, H, W], the features that another program must give of it [1, class token + N, Dv]).

    The features are the output of layer `deepest`; where that is 0, of the first one, which gives its input.
    """
    image = probe_image(form)
    return image, hidden_states(form, image)[max(1, deepest)]

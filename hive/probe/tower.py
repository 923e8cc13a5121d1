"""The frozen tower that is probed: it turns pixels into layer-normalised tokens."""

import hashlib
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from hive.errors import UserError
from hive.export.facts import read_facts
from hive.model.pretrained import load_vision
from hive.model.vision import VisionTower
from hive.model_files import WEIGHTS, find_files


class ProbedTower:
    """A tower up to one hidden state, without gradients; bf16 autocast on a GPU, fp32 on a CPU.

    An image has N patch tokens of width D, after one class token where the tower has it (`class_tokens` is 1 or 0).
    """

    def __init__(self, model: PreTrainedModel, layer: int | None = None, device: str | torch.device = "cpu") -> None:
        """`layer`: the hidden state that is read, k = output of layer k.

        None is the last but one, as in the authors' probe. Raises `UserError` where the tower has no such layer.
        """
        layers = model.config.num_hidden_layers
        self.layer = max(1, layers - 1) if layer is None else layer
        if not 0 <= self.layer <= layers:
            raise UserError(f"--layer is {layer}, but the tower has hidden states 0 to {layers}: choose one of them.")
        self.device = torch.device(device)
        self._tower = VisionTower(model, (self.layer,), keep_class_token=True)
        self._tower.to(self.device).eval().requires_grad_(False)
        self.spec, self.family = self._tower.spec, self._tower.family
        self.width, self.patches, self.class_tokens = self._tower.width, self._tower.patches, self._tower.class_tokens
        self.heads = self._tower.shape.heads
        self.eps: float = model.config.layer_norm_eps
        self.fingerprint = _fingerprint(model, self.layer, self.device.type)

    @torch.no_grad()
    def tokens(self, pixels: Tensor) -> Tensor:
        """Returns tokens [B, class_tokens + N, D], fp32, of pixels [B, 3, size, size], uint8 or floats 0..255.

        Each token is normalised over its channels, without gain and bias, which a head adds.
        """
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            hidden = self._tower(pixels.to(self.device, non_blocking=True))[0]
        return F.layer_norm(hidden.float(), (self.width,), eps=self.eps)


def load_tower(path: Path, layer: int | None, device: str | torch.device) -> ProbedTower:
    """Returns the tower of a folder, or of a model on the hub; raises `UserError` where there is none.

    `layer` None is the deepest hidden state that HIVE trained where it exported the tower.
    """
    if (path / "tower").is_dir():
        raise UserError(f"--tower {path} is no model in Hugging Face form: give {path / 'tower'}.")
    model = load_vision(str(path), "--tower")
    facts = read_facts(find_files(str(path), WEIGHTS, "--tower"))
    return ProbedTower(model, facts.deepest if layer is None and facts is not None else layer, device)


def _fingerprint(model: PreTrainedModel, layer: int, device: str) -> str:
    """Returns the SHA-256 of weights, settings, layer and precision, which together decide the tokens."""
    settings = {key: value for key, value in model.config.to_dict().items() if key not in ("_name_or_path", "dtype")}
    digest = hashlib.sha256(json.dumps([settings, layer, device], sort_keys=True, default=str).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

"""HIVE: the language model reads selected layers of the tower through cross-attention at aligned depths."""

from torch import Tensor, nn

from hive.data.text import Batch
from hive.model.fusion import Injection, JointFusion
from hive.model.language import LanguageModel
from hive.model.projector import LayerwiseMLPProjector, ResidualProjector
from hive.model.vision import Encode, VisionTower
from hive.profiling import begin, boundary


class HiveModel(nn.Module):
    """Tower -> projectors -> keys and values -> language model -> summed loss."""

    def __init__(
        self,
        tower: VisionTower,
        projector: ResidualProjector | LayerwiseMLPProjector,
        fusion: JointFusion,
        language: LanguageModel,
    ) -> None:
        super().__init__()
        self.tower = tower
        self.projector = projector
        self.fusion = fusion
        self.language = language

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that a loss can reach, by the part that the stages name."""
        return {
            "projector": list(self.projector.parameters()),
            "fusion": list(self.fusion.parameters()),
            "language": list(self.language.parameters()),
            "tower": list(self.tower.reached_parameters()),
        }

    def forward(self, batch: Batch, encode: Encode | None = None) -> Tensor:
        """Cross-entropy summed over the batch's supervised tokens, fp32 scalar; `encode` replaces the tower."""
        return self.loss(batch, self.fusion(self.project(batch, encode), batch))

    def project(self, batch: Batch, encode: Encode | None = None) -> Tensor:
        """Projected features [S, B, N, D] of the batch's images; `encode` replaces the tower."""
        begin("tower")
        features = boundary((encode or self.tower)(batch.pixels), "tower", "projector")  # [S, B, N, Dv]
        return self.projector(features)

    def loss(self, batch: Batch, injection: Injection | None = None) -> Tensor:
        """The summed cross-entropy with what `injection` adds to the language model; without it, that of the text."""
        hidden = self.language(self.language.embed(batch.tokens), batch, injection)
        return self.language.loss(boundary(hidden, "language", "head"), batch.targets)

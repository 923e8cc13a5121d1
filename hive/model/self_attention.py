"""The baseline, as LLaVA: image tokens are part of the text's sequence and pass every layer of the language model."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hive.data.text import Batch
from hive.model.language import LanguageModel
from hive.model.projector import MLPProjector
from hive.model.vision import Encode, VisionTower
from hive.profiling import begin, boundary


@dataclass(frozen=True)
class Interleaved:
    """Texts with N image tokens after each BOS: the layout of the T + B*N packed tokens."""

    cu_seqlens: Tensor  # int32 [B + 1]
    positions: Tensor  # int64 [T + B*N]
    max_seqlen: int
    text_rows: Tensor  # int64 [T]: row of each text token
    image_rows: Tensor  # int64 [B*N]: row of each image token
    predicting_rows: Tensor  # int64 [T]: row whose output predicts the text token's target


def interleave(batch: Batch, patches: int) -> Interleaved:
    """The layout BOS, image, caption of each sample, computed on the device without synchronising it.

    After BOS comes an image token, so the last image token predicts the first caption token.
    """
    device, samples = batch.tokens.device, batch.cu_seqlens.numel() - 1
    sample = torch.arange(samples, device=device)
    lengths = batch.cu_seqlens.diff()
    sample_of_token = sample.repeat_interleave(lengths, output_size=batch.tokens.numel())
    starts = batch.cu_seqlens[:-1].long() + sample * patches  # row of each BOS
    after_image = starts[sample_of_token] + batch.positions + patches
    is_bos = batch.positions == 0
    text_rows = torch.where(is_bos, after_image - patches, after_image)
    image_rows = (starts[:, None] + 1 + torch.arange(patches, device=device)).flatten()
    cu_seqlens = batch.cu_seqlens + torch.arange(samples + 1, device=device, dtype=torch.int32) * patches
    rows = batch.tokens.numel() + samples * patches
    sample_of_row = sample.repeat_interleave(lengths + patches, output_size=rows)
    positions = torch.arange(rows, device=device) - starts[sample_of_row]
    return Interleaved(cu_seqlens, positions, batch.max_seqlen + patches, text_rows, image_rows, after_image)


class SelfAttentionModel(nn.Module):
    """Tower's last layer but one -> MLP -> the language model's input sequence -> summed loss."""

    def __init__(self, tower: VisionTower, projector: MLPProjector, language: LanguageModel) -> None:
        super().__init__()
        self.tower = tower
        self.projector = projector
        self.language = language

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that a loss can reach, by the part that the stages name."""
        return {
            "projector": list(self.projector.parameters()),
            "language": list(self.language.parameters()),
            "tower": list(self.tower.reached_parameters()),
        }

    def layout(self, batch: Batch, patches: int) -> Interleaved:
        """The rows of text and image tokens in the sequences."""
        return interleave(batch, patches)

    def forward(self, batch: Batch, encode: Encode | None = None) -> Tensor:
        """Cross-entropy summed over the batch's supervised tokens, fp32 scalar; `encode` replaces the tower."""
        hidden, layout = self.hidden(batch, encode)
        # The head runs only on rows that predict text: no loss needs the others' logits.
        return self.language.loss(hidden[layout.predicting_rows], batch.targets)

    def hidden(self, batch: Batch, encode: Encode | None = None) -> tuple[Tensor, Interleaved]:
        """Final hidden states of all rows, [T + B*N, D], and their layout."""
        rows, layout = self.sequence(batch, encode)
        return boundary(self.language(rows, layout), "language", "head"), layout

    def sequence(self, batch: Batch, encode: Encode | None = None) -> tuple[Tensor, Interleaved]:
        """The language model's input, [T + B*N, D], and its layout."""
        begin("tower")
        features = boundary((encode or self.tower)(batch.pixels)[0], "tower", "projector")  # [B, N, Dv]
        image = boundary(self.projector(features).flatten(0, 1), "projector", "language")
        text = self.language.embed(batch.tokens)
        layout = self.layout(batch, features.shape[1])
        rows = text.new_empty(len(layout.positions), text.shape[-1])
        rows = rows.index_copy(0, layout.text_rows, text)
        # Conversations without images still bring one, which no row reads: the tower always runs.
        return rows.index_copy(0, layout.image_rows, image.to(rows.dtype)[: len(layout.image_rows)]), layout

"""What a user would pick instead: transformers' own LLaVA, padded batches, SDPA, logits for every position."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration

from hive.config import LanguageConfig, TowerConfig
from hive.data.text import Batch
from hive.model.families import LANGUAGES, TOWERS
from hive.profiling import begin, boundary
from hive_kernels.packing import padded_layout

IGNORED = -100


class UsualLlava(nn.Module):
    """`LlavaForConditionalGeneration` with the interface of this engine's models, on the same packed batches.

    From the same weights it computes the loss of `SelfAttentionModel` at a higher cost: the tower runs to its end,
    texts are padded to the longest one and attention is masked, and the head predicts image and padding rows as well.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vision: TowerConfig, text: LanguageConfig) -> None:
        """Fresh weights of these families and shapes."""
        super().__init__()
        self.vision, self.text, self.family = vision, text, TOWERS[vision.family]
        self.spec = self.family.image_spec(vision.image_size)
        self.image_token = text.vocab_size - 1
        self.llava = LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=self.family.to_settings(vision),
                text_config=LANGUAGES[text.family].to_settings(text),
                image_token_index=self.image_token,
                vision_feature_layer=-2,
                vision_feature_select_strategy="default" if self.family.class_tokens else "full",
                tie_word_embeddings=text.tied_embeddings,
            )
        )
        self.patches = (vision.image_size // vision.patch_size) ** 2
        self.register_buffer("mean", 255 * torch.tensor(self.spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(self.spec.std).view(1, 3, 1, 1), persistent=False)

        model = self.llava.model
        layer = model.language_model.layers[0]
        self.head_dim = LANGUAGES[text.family].attention_parts(layer).head_dim
        model.multi_modal_projector.register_forward_pre_hook(_mark_boundary("tower", "projector"))
        model.multi_modal_projector.register_forward_hook(
            lambda module, args, out: boundary(out, "projector", "language")
        )
        self.llava.lm_head.register_forward_pre_hook(_mark_boundary("language", "head"))

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that a loss can reach, by the part that the stages name; the tower's last layer isn't read."""
        model = self.llava.model
        language = [*model.language_model.parameters(), *self.llava.lm_head.parameters()]
        return {
            "projector": list(model.multi_modal_projector.parameters()),
            "language": list(dict.fromkeys(language)),
            "tower": list(self.family.parts(model.vision_tower).parameters(self.vision.layers - 1)),
        }

    def forward(self, batch: Batch) -> Tensor:
        """Cross-entropy summed over the batch's supervised tokens, fp32 scalar."""
        begin("tower")  # with padding and embedding, which come first here
        ids, mask, labels = self.pad(batch)
        padded = batch.token_count < batch.samples * batch.max_seqlen
        pixels = (batch.pixels.to(self.mean.dtype) - self.mean) / self.std
        out = self.llava(
            input_ids=ids,
            pixel_values=pixels,
            attention_mask=mask if padded else None,  # None: plain causal, as transformers would choose
            labels=labels,
            use_cache=False,
            num_items_in_batch=1,  # a sum, as the Trainer of transformers asks for it
        )
        return out.loss

    def pad(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, attention mask, labels, each int64 [B, 1 + N + L]: BOS, image, caption, padding on the right.

        L is the longest caption. A token that equals the image's placeholder, the vocabulary's last id, is
        replaced by the id before it, which changes no cost.
        """
        layout = padded_layout(batch.cu_seqlens, batch.token_count, batch.max_seqlen)
        captions = layout.pad(batch.targets)
        exists = layout.pad(torch.ones_like(batch.targets))
        samples = batch.samples
        front = exists.new_ones(samples, 1 + self.patches)
        mask = torch.cat([front, exists], 1)
        labels = torch.cat([front * IGNORED, captions.masked_fill(exists == 0, IGNORED)], 1)
        bos = batch.tokens[batch.cu_seqlens[:-1].long()]
        text = [part.clamp(max=self.image_token - 1) for part in (bos[:, None], captions)]
        return torch.cat([text[0], front[:, 1:] * self.image_token, text[1]], 1), mask, labels


def _mark_boundary(before: str, after: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A forward pre-hook that marks a module's input as the boundary between two parts."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        boundary(args[0], before, after)

    return hook

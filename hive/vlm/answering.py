"""Answers of a saved LLaVA model: greedy decoding with a key/value cache, one batch at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor, LlavaConfig, LlavaForConditionalGeneration
from transformers.utils import logging

from hive.data.turns import IMAGE
from hive.errors import UserError, first_line


class Answerer:
    """Answers questions about images with a vision-language model and its processor."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Loads a folder that `python -m hive.vlm` or transformers wrote, in fp32 on a CPU and bf16 on a GPU.

        Runs no code from the folder and doesn't use the network. Raises `UserError` for a folder that holds no whole
        LLaVA model.
        """
        self.device = device
        self.precision = torch.bfloat16 if device.type == "cuda" else torch.float32
        logging.disable_progress_bar()
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            if not isinstance(config, LlavaConfig):
                raise UserError(
                    f"--model {folder} is a {config.model_type} model: give a LLaVA folder, such as RUN/llava."
                )
            self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
            self._render_prompt("What is this?", 1)  # fails where there is no chat template
            llava: Any = LlavaForConditionalGeneration
            self.model, report = llava.from_pretrained(
                folder, dtype=self.precision, local_files_only=True, output_loading_info=True
            )
        except UserError:
            raise
        except Exception as error:  # transformers raises many kinds, from many depths
            raise UserError(
                f"--model {folder} can't be loaded ({first_line(error):.200}): give a whole LLaVA folder with its "
                "processor, such as RUN/llava of python -m hive.vlm."
            ) from None
        if report["missing_keys"]:
            names = sorted(report["missing_keys"])
            raise UserError(f"--model {folder} lacks {len(names)} weights, {names[0]} among them: give a whole folder.")
        self.model.to(device).eval()
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"  # so that every row's answer follows its own prompt
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    def __call__(self, prompts: Sequence[tuple[str, Sequence[Image.Image]]], max_new_tokens: int) -> list[str]:
        """The answers to (text, RGB images) prompts, the images put in front of the text; one user turn each.

        The answers don't depend on how prompts are batched, up to rounding: padding is masked, and positions count
        from each row's own start.
        """
        texts = [self._render_prompt(text, len(pictures)) for text, pictures in prompts]
        images = [image for _, pictures in prompts for image in pictures]
        inputs = self.processor(
            text=texts, images=images or None, padding=True, add_special_tokens=False, return_tensors="pt"
        )
        inputs = inputs.to(self.device, self.precision)
        with torch.inference_mode():
            tokens = self.model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=max_new_tokens,
                pad_token_id=self.processor.tokenizer.pad_token_id,
            )
        new = tokens[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)]

    def _render_prompt(self, text: str, images: int) -> str:
        content = [{"type": "image"}] * images + [{"type": "text", "text": text.replace(IMAGE, "")}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

"""The model for lmms-eval: `lmms-eval --model hive --model_args pretrained=RUN/llava --tasks mme`.

lmms-eval finds the class through the entry point group `lmms_eval.models`. Nothing else imports this module.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms
from PIL import Image

from hive.distributed import pick_device
from hive.vlm.answering import Answerer

MAX_NEW_TOKENS = 256  # for a task that gives no limit


class HiveLLaVA(lmms):
    """Answers lmms-eval's generation tasks by greedy decoding; tasks that need likelihoods are not supported."""

    is_simple = True

    def __init__(
        self, pretrained: str, device: str = "auto", batch_size: int | str = 1, max_batch_size: object = None
    ) -> None:
        """`pretrained`: RUN/llava of `python -m hive.vlm`, or any LLaVA folder of transformers.

        lmms-eval passes `max_batch_size` to every model; it belongs to the batch size "auto", which is not supported.
        """
        super().__init__()
        self.batch_size = int(batch_size)
        self.answerer = Answerer(Path(pretrained), pick_device(device))

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Returns the answer to each request, in order, cut off before the first of its `until` texts."""
        answers: list[str] = []
        for limit, group in groupby(
            (request.args for request in requests), key=lambda args: args[1].get("max_new_tokens", MAX_NEW_TOKENS)
        ):
            asked = list(group)
            for start in range(0, len(asked), self.batch_size):
                batch = asked[start : start + self.batch_size]
                texts = self.answerer([(context, self._images(*rest)) for context, _, *rest in batch], limit)
                answers += [_cut_off(text, args[1].get("until")) for text, args in zip(texts, batch, strict=True)]
        return answers

    def _images(self, doc_to_visual: Any, doc_id: Any, task: str, split: str) -> list[Image.Image]:
        visuals = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        if not all(isinstance(visual, Image.Image) for visual in visuals):
            raise NotImplementedError(f"The task {task} has something other than images, which this model can't read.")
        return [visual.convert("RGB") for visual in visuals]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Raises NotImplementedError."""
        raise NotImplementedError("This model answers one question at a time: choose tasks of a single round.")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Raises NotImplementedError."""
        raise NotImplementedError("This model generates and gives no likelihoods: choose tasks that generate.")


def _cut_off(text: str, until: str | Sequence[str] | None) -> str:
    for end in [until] if isinstance(until, str) else until or ():
        text = text.split(end)[0] if end else text
    return text

"""--ask: a saved model's answer to one question about one image."""

from pathlib import Path

from hive.config import DataConfig
from hive.data.images import BadImage, decode
from hive.distributed import join_world
from hive.errors import UserError
from hive.files import has_surrogate

MAX_NEW_TOKENS = 256


def ask(image: Path, question: str, model: Path, device: str) -> str:
    """The answer of a saved model, decoded greedily; `UserError` where image, question or model can't be read."""
    if not question.strip() or has_surrogate(question):
        raise UserError('The question of --ask is empty or no UTF-8 text: --ask IMAGE "QUESTION".')
    try:
        picture = decode(image.read_bytes(), DataConfig().max_megapixels)
    except OSError as error:
        raise UserError(f"--ask {image} can't be read ({error.strerror}): give an image file.") from None
    except BadImage as error:
        raise UserError(f"--ask {image} can't be used ({error}): give an image file.") from None
    if not (model / "config.json").is_file():
        raise UserError(f"--model {model} is no model folder: give RUN/llava of a python -m hive.vlm run.")
    from hive.vlm.answering import Answerer  # transformers takes seconds to import

    with join_world(device) as world:
        return Answerer(model, world.device)([(question, [picture])], MAX_NEW_TOKENS)[0]

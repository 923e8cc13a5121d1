"""Vision-language evaluation from the official files, offline: python -m hive.evaluate."""

from typing import Any


def lmms_manifest() -> Any:
    """What lmms-eval asks the entry point for; it imports the model's class when it is used."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="hive", simple_class_path="hive.evaluate.lmms.HiveLLaVA")

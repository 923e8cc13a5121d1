"""Vision-language evaluation from the official files, offline: python -m hive.evaluate."""

from typing import Any


def lmms_manifest() -> Any:
    """Returns the manifest that lmms-eval's entry point asks for; lmms-eval imports the class when it is used."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="hive", simple_class_path="hive.evaluate.lmms.HiveLLaVA")

"""Vision-language fine-tuning of the pre-trained tower, after LLaVA: python -m hive.vlm."""

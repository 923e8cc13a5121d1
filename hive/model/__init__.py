"""The model: vision tower, projector, fusion, language model, and the two models that join them."""

"""The model: vision tower, projector, fusion, language model, and the two ways to join them."""

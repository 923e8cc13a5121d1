"""Gradient and attention maps of a trained model over one image and its caption."""

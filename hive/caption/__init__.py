"""Captions of images by a trained model."""

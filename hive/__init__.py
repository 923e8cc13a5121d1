"""HIVE: pre-training a vision encoder through a language model by hierarchical cross-attention."""

__version__ = "0.1.0"

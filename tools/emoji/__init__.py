"""The parts of `tools/build_emoji.py`: packages, catalogue, rendering, splits, tokenizer and output files."""

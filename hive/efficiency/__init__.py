"""What HIVE costs beside self-attention: python -m hive.efficiency."""

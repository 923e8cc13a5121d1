"""What HIVE costs compared with self-attention: python -m hive.efficiency."""

"""What a run leaves for other programs: the tower in the forms of transformers, timm, open_clip and LLaVA."""

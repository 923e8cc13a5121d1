"""What a training step costs: FLOPs and memory."""

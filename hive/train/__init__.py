"""The training run: its command line, its loop and its report."""

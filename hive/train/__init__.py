"""Training: the command line, the loop over a task's stages, pre-training as a task, metrics and the dry run."""

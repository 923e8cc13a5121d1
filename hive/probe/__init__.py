"""Classification with a frozen tower (paper, Tables 1 and 4).

`run.probe` takes a tower and any set that `datasets.open_dataset` opens; `run.probe_accuracy` takes a transformers
model and arrays of images.
"""

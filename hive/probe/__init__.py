"""Classification with a frozen tower (paper, Tables 1 and 4).

`run.probe_accuracy` probes a tower in memory on images in memory; `run.probe` any set of `datasets.open_dataset`.
"""

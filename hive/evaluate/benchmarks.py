"""The benchmarks of Table 2 by name."""

from hive.evaluate import gqa, mme, okvqa, scienceqa

BENCHMARKS = {benchmark.name: benchmark for benchmark in (item.BENCHMARK for item in (mme, gqa, okvqa, scienceqa))}

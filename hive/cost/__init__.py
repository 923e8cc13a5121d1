"""The cost model: FLOPs by formula and by counter, simulated memory, and the methods that are compared by them."""

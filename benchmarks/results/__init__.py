"""Kept data, curves and tables of the online runs; `python -m benchmarks.results --help`."""

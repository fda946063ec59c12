"""Speed against the peers, one group of figures a file; `python -m benchmarks` runs them."""

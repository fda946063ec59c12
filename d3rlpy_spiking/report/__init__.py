"""One page about a spiking transformer of d3rlpy, beside the dense one of its size.

python -m d3rlpy_spiking report MODEL.d3 --env Hopper-v4 --target-return 3600
"""

"""One page about a spiking model of Stable-Baselines3, beside the dense network of its size.

python -m sb3_spiking.report MODEL.zip --env HalfCheetah-v4
"""

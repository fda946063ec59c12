"""Plays the trained policies that are shipped here, and compares their returns with those known.

python -m sb3_spiking.selftest
"""

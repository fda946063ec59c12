"""Spiking policies for the algorithms of sb3-contrib, one algorithm a file."""

"""Saved models of Stable-Baselines3, opened and played: what the report and the doctor share."""

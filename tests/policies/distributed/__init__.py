"""Tests with two ranks: `checks_*` run on both, `test_*` compare what they found."""

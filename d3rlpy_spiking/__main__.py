"""`python -m d3rlpy_spiking`: train, evaluate and fold on the command line."""

import sys

from d3rlpy_spiking.cli import command

if __name__ == "__main__":
    sys.exit(command())

"""`python -m d3rlpy_spiking`: train, evaluate and fold on the command line."""

import sys

from d3rlpy_spiking.cli import main

if __name__ == "__main__":
    sys.exit(main())

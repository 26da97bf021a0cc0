"""Runs the command `avalanche-dgm` as `python -m avalanche_dgm`."""

import sys

from avalanche_dgm.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""Lets `python -m avalanche_dgm` stand for the command `avalanche-dgm`."""

import sys

from avalanche_dgm.cli import main

if __name__ == "__main__":
    sys.exit(main())

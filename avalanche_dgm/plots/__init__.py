"""The figures of the papers, drawn from runs, memories and logs.

Each function returns a Matplotlib figure, which `save` writes as a PNG file. Matplotlib's global
state is not used, so the functions work without a display and beside the user's figures.
"""

from avalanche_dgm.dashboards.drawing import save
from avalanche_dgm.plots import furlanello2016, kamra2017, ostapenko2019
from avalanche_dgm.plots.loading import load

__all__ = ["furlanello2016", "kamra2017", "load", "ostapenko2019", "save"]

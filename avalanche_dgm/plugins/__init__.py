"""Avalanche strategy plugins, ready strategies, metrics and checkpoints.

Only this folder imports Avalanche's strategy code.
"""

from avalanche_dgm.plugins.made import plugin_of
from avalanche_dgm.plugins.strategies import strategy_of

__all__ = ["plugin_of", "strategy_of"]

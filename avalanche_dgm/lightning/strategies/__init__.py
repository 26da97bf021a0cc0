"""Avalanche strategies with their plugins, metrics and loggers on a Lightning Trainer."""

from avalanche_dgm.lightning.strategies.run import run_on_trainer as run_on_trainer

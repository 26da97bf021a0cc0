"""Any Avalanche strategy, with its plugins, metrics and loggers, under a Lightning Trainer."""

from avalanche_dgm.lightning.strategies.run import run_on_trainer as run_on_trainer

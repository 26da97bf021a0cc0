"""Generative and latent memories for continual learning without stored data.

Everything users name is importable from here; each part is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "DGDMN": "avalanche_dgm.plugins.strategies",
    "DGR": "avalanche_dgm.plugins.strategies",
    "PseudoRehearsal": "avalanche_dgm.plugins.strategies",
    "ALTM": "avalanche_dgm.plugins.strategies",
    "LatentReplay": "avalanche_dgm.plugins.strategies",
    "DynamicMemory": "avalanche_dgm.plugins.strategies",
    "MeRGAN": "avalanche_dgm.plugins.strategies",
    "EWCGenerator": "avalanche_dgm.plugins.strategies",
    "GANReplay": "avalanche_dgm.plugins.strategies",
    "DynamicMemoryPlugin": "avalanche_dgm.plugins.adversarial",
    "MeRGANPlugin": "avalanche_dgm.plugins.adversarial",
    "EWCGeneratorPlugin": "avalanche_dgm.plugins.adversarial",
    "GANReplayPlugin": "avalanche_dgm.plugins.adversarial",
    "LatentReplayPlugin": "avalanche_dgm.plugins.latent",
    "ALTMPlugin": "avalanche_dgm.plugins.altm",
    "DGDMNPlugin": "avalanche_dgm.plugins.dgdmn",
    "DGRPlugin": "avalanche_dgm.plugins.replay",
    "PseudoRehearsalPlugin": "avalanche_dgm.plugins.replay",
    "CosineAnnealingPlugin": "avalanche_dgm.plugins.annealing",
    "OptimizerSpec": "avalanche_dgm.fitting",
    "DashboardLogger": "avalanche_dgm.plugins.dashboard_logger",
    "WandBLogger": "avalanche_dgm.plugins.wandb_logger",
    "GeneratorObserver": "avalanche_dgm.plugins.observer",
    "AccuracyByEpoch": "avalanche_dgm.plugins.by_epoch",
    "continual_metrics": "avalanche_dgm.plugins.continual_metrics",
    "cost_metrics": "avalanche_dgm.plugins.cost_metrics",
    "generator_metrics": "avalanche_dgm.plugins.generator_metrics",
    "memory_metrics": "avalanche_dgm.plugins.metrics",
    "retention_metrics": "avalanche_dgm.plugins.retention",
    "save_checkpoint": "avalanche_dgm.plugins.checkpoints",
    "maybe_load_checkpoint": "avalanche_dgm.plugins.checkpoints",
    "save_memory": "avalanche_dgm.saving",
    "load_memory": "avalanche_dgm.saving",
    "AlexNetLike": "avalanche_dgm.models",
    "latent_replay_network": "avalanche_dgm.models",
    "digits": "avalanche_dgm.streams",
    "latent_split": "avalanche_dgm.streams",
    "make_stream": "avalanche_dgm.streams",
    "permnist": "avalanche_dgm.streams",
    "sklearn_digits": "avalanche_dgm.streams",
    "split": "avalanche_dgm.streams",
    "tdigits": "avalanche_dgm.streams",
    "turntable": "avalanche_dgm.streams",
    "turntable_domains": "avalanche_dgm.streams",
    "errors": "avalanche_dgm",
}

__all__ = sorted([*_WHERE, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("avalanche_dgm.errors")
    if name not in _WHERE:
        raise AttributeError(f"module 'avalanche_dgm' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])

"""What a run of a memory that is a generative adversarial network leaves beside its results."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.methods import method_of


def is_gan(config: ExperimentConfig) -> bool:
    """Says whether a run's method is a memory that is a generative adversarial network.

    Args:
        config: The run's settings.
    """
    method = method_of(config)
    if method.plugin is None or not method.ours:
        return False
    from avalanche_dgm.plugins.adversarial import GANPlugin

    module, name = method.plugin
    return issubclass(getattr(importlib.import_module(module), name), GANPlugin)


def note(folder: Path | None, config: ExperimentConfig, method: Any, experience: int) -> None:
    """Writes down what a generator has become after an experience; see `GeneratorLog`.

    Args:
        folder: The run folder, or ``None`` to do nothing.
        config: The run's settings; nothing is done if its method is no such memory.
        method: The method itself, or its plugin or LightningModule.
        experience: Position of what was learned last, from 0.
    """
    if folder is None or not is_gan(config):
        return
    from avalanche_dgm.metrics import GeneratorLog

    GeneratorLog(folder, method).note(experience)

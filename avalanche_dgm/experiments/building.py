"""What a run is built from: seeds, device, classifier and its optimiser."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.models import MLP, MultiHeadMLP


def build_model(config: ExperimentConfig, benchmark: Any, shape: tuple[int, ...]) -> nn.Module:
    """Makes the classifier: one head, or one a task where the stream has task labels.

    Args:
        config: Hidden layers and dropout.
        benchmark: The stream, for its classes and task labels.
        shape: Shape of one image.
    """
    n_features = int(np.prod(shape))
    experiences = [*benchmark.train_stream, *benchmark.test_stream]
    if len({label for e in experiences for label in e.task_labels}) > 1:
        return MultiHeadMLP(n_features, hidden=config.hidden, dropout=config.dropout)
    n_classes = 1 + max(int(c) for e in experiences for c in e.classes_in_this_experience)
    return MLP(n_features, n_classes, hidden=config.hidden, dropout=config.dropout)


def build_optimizer(config: ExperimentConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Makes the classifier's optimiser.

    Args:
        config: Its name and learning rate.
        model: The classifier.
    """
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(model.parameters(), lr=config.lr, alpha=0.9, eps=1e-8)
    if config.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=config.lr)
    return torch.optim.Adam(model.parameters(), lr=config.lr)


def resolve_device(name: str) -> torch.device:
    """Turns "auto", "cpu" or "cuda" into a device.

    Args:
        name: One of the three.

    Raises:
        ConfigError: A GPU is asked for and PyTorch sees none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("PyTorch sees no GPU here. Use --device cpu, or auto.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def seed_everything(seed: int, position: int = 0) -> None:
    """Seeds Python, NumPy and PyTorch.

    Args:
        seed: The run's seed.
        position: Position in the stream, 0 before the first experience.
    """
    mixed = (seed * 100_003 + position) % 2**32
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)

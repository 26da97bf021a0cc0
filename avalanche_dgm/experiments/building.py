"""What a run is built from: seeds, device, classifier and its optimiser."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.models import MLP, MultiHeadMLP
from avalanche_dgm.models import latent_replay_network


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
        if config.method == "latent-replay":
            raise ConfigError(
                "latent-replay has one head for all classes on the command line. Leave task_labels"
                " out, or use LatentReplayPlugin with a model of yours."
            )
        return MultiHeadMLP(n_features, hidden=config.hidden, dropout=config.dropout)
    if config.method == "latent-replay":
        return _compressed(shape, n_classes_of(experiences))
    return MLP(n_features, n_classes_of(experiences), hidden=config.hidden, dropout=config.dropout)


def _compressed(shape: tuple[int, ...], n_classes: int) -> nn.Module:
    """The two networks of the paper on latent replay; it has images of 28x28 and ten classes."""
    if len(shape) != 3:
        raise ConfigError(
            f"latent-replay has a convolutional compressor here, and this stream's samples are of"
            f" shape {shape}. Take a stream of images."
        )
    return latent_replay_network(shape, n_classes)


def n_classes_of(experiences: Iterable[Any]) -> int:
    """Number of outputs for all classes of some experiences.

    Args:
        experiences: Avalanche's.
    """
    return 1 + max(int(c) for e in experiences for c in e.classes_in_this_experience)


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

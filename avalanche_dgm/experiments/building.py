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
from avalanche_dgm.experiments.models import MLP, MultiHeadMLP, MultiTaskAlexNet
from avalanche_dgm.experiments.networks import ALEXNET, LATENT, network_of_config
from avalanche_dgm.fitting import OptimizerSpec
from avalanche_dgm.models import AlexNetLike, latent_replay_network

# From this side on the turntable's network has the channels of the paper's.
_LARGE = 64


def build_model(config: ExperimentConfig, benchmark: Any, shape: tuple[int, ...]) -> nn.Module:
    """Makes the classifier: one head, or one a task where the stream has task labels.

    Args:
        config: Method, stream, and what shapes the network; see `network_of`.
        benchmark: The stream, for its classes and task labels.
        shape: Shape of one image.

    Raises:
        ConfigError: The network cannot learn such a stream.
    """
    experiences = [*benchmark.train_stream, *benchmark.test_stream]
    heads, network = heads_of(experiences), network_of_config(config)
    if network == LATENT:
        return _compressed(config, shape, heads)
    if network == ALEXNET:
        return _alexnet(config, shape, heads)
    n_features = int(np.prod(shape))
    if len(heads) > 1:
        return MultiHeadMLP(n_features, hidden=config.hidden, dropout=config.dropout)
    return MLP(n_features, max(heads.values()), hidden=config.hidden, dropout=config.dropout)


def _compressed(
    config: ExperimentConfig, shape: tuple[int, ...], heads: dict[int, int]
) -> nn.Module:
    """The two networks of the paper on latent replay; it has images of 28x28 and ten classes."""
    if len(heads) > 1:
        raise ConfigError(
            f"{config.method} has one head for all classes on the command line. Leave task_labels"
            " out, or use LatentReplayPlugin with a model of yours."
        )
    if len(shape) != 3:
        raise ConfigError(
            f"{config.method} has a convolutional compressor here, and this stream's samples are of"
            f" shape {shape}. Take a stream of images."
        )
    return latent_replay_network(shape, max(heads.values()))


def _alexnet(config: ExperimentConfig, shape: tuple[int, ...], heads: dict[int, int]) -> nn.Module:
    """The network of the paper on A-LTM, or what is like it for small images."""
    options: dict[str, Any] = {"hidden": config.hidden[0], "dropout": config.dropout}
    if min(shape[1:]) < _LARGE:
        # Half of the usual ones: a comparison over several seeds takes minutes on a CPU, not hours.
        options["channels"] = (8,) * 5 if config.fast else (16, 32, 48, 48, 32)
    if len(heads) > 1:
        return MultiTaskAlexNet(shape, heads, **options)
    return AlexNetLike(shape, max(heads.values()), **options)


def heads_of(experiences: Iterable[Any]) -> dict[int, int]:
    """Returns how many outputs each task label needs: one more than its largest class.

    Args:
        experiences: Avalanche's; one may have several task labels.
    """
    heads: dict[int, int] = {}
    for experience in experiences:
        data = experience.dataset
        for task, label in set(zip(data.targets_task_labels, data.targets, strict=True)):
            heads[int(task)] = max(heads.get(int(task), 0), int(label) + 1)
    return heads


def optimizer_of(config: ExperimentConfig) -> OptimizerSpec:
    """How the classifier is trained.

    Args:
        config: The optimiser's name, its learning rate and schedule.
    """
    options = {"alpha": 0.9, "eps": 1e-8} if config.optimizer == "rmsprop" else {}
    return OptimizerSpec(config.optimizer, config.lr, config.schedule, options=options)


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

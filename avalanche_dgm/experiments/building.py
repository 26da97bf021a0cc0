"""Builds the parts of a run: stream, classifier, optimiser; sets device and seeds."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import class_paths
from avalanche_dgm.experiments.config import ALEXNET, LATENT, ExperimentConfig, is_class_path
from avalanche_dgm.experiments.models import MLP, MultiHeadMLP, MultiTaskAlexNet
from avalanche_dgm.models import AlexNetLike, latent_replay_network
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.plugins.samples import task_name_of
from avalanche_dgm.streams.tensors import assemble
from avalanche_dgm.streams.validation import with_validation

# Smallest side of images for which the turntable's network has the paper's channels.
_LARGE = 64
#: Options of the latent replay paper's network.
_LATENT_OPTIONS = ("latent_channels", "padding", "pool")


def check_network(config: ExperimentConfig) -> None:
    """Checks, before data are loaded, that a config's network has the given options.

    Raises:
        ConfigError: The network has no hidden units, dropout or arguments, but some are given.
    """
    own = is_class_path(config.model)
    if (own or config.model == LATENT) and (config.hidden or config.dropout):
        network = (
            f"the network {config.model}, which has its arguments in model_options"
            if own
            else "the network of the latent replay paper, whose layers are fixed and have no"
            " dropout"
        )
        raise ConfigError(
            f"{config.method} on {config.stream} trains {network}. Leave --hidden, --dropout and"
            " the method dropout out."
        )
    known = _LATENT_OPTIONS if config.model == LATENT else ()
    if not own and not set(config.model_options) <= set(known):
        takes = f"only the model_options {', '.join(known)}" if known else "no model_options"
        raise ConfigError(
            f"The network {config.model} takes {takes}. Use --hidden and --dropout if it has them,"
            " or give a class path as its name."
        )
    if config.model == ALEXNET and len(config.hidden) != 1:
        raise ConfigError(
            f"The network of {config.stream} has five convolutions and two dense layers of the same"
            f" width: --hidden takes one number for it, not {len(config.hidden)}."
        )


def build_model(config: ExperimentConfig, benchmark: Any, shape: tuple[int, ...]) -> nn.Module:
    """Makes the classifier, with one head per task label of the stream.

    Raises:
        ConfigError: The network cannot learn such a stream, or a class path is not of a module.
    """
    if is_class_path(config.model):
        model = class_paths.make(config.model, config.model_options, "model")
        if not isinstance(model, nn.Module):
            raise ConfigError(f"The model {config.model} is no torch.nn.Module.")
        return model
    heads = heads_of([*benchmark.train_stream, *benchmark.test_stream])
    if config.model == LATENT:
        return _compressed(config, shape, heads)
    if config.model == ALEXNET:
        return _alexnet(config, shape, heads)
    n_features = int(np.prod(shape))
    if len(heads) > 1:
        return MultiHeadMLP(n_features, hidden=config.hidden, dropout=config.dropout)
    return MLP(n_features, max(heads.values()), hidden=config.hidden, dropout=config.dropout)


def _compressed(
    config: ExperimentConfig, shape: tuple[int, ...], heads: dict[int, int]
) -> nn.Module:
    """The compressor and classifier of the latent replay paper."""
    if len(heads) > 1:
        raise ConfigError(
            f"{config.method} has one head for all classes on the command line. Leave task_labels"
            " out, or use LatentReplayPlugin with your own model."
        )
    if len(shape) != 3:
        raise ConfigError(
            f"{config.method} has a convolutional compressor here, but this stream's samples have"
            f" shape {shape}. Use another network, --model mlp with --set layer=body.0."
        )
    return latent_replay_network(shape, max(heads.values()), **config.model_options)


def _alexnet(config: ExperimentConfig, shape: tuple[int, ...], heads: dict[int, int]) -> nn.Module:
    """The network of the A-LTM paper, or a similar one for small images."""
    options: dict[str, Any] = {"hidden": config.hidden[0], "dropout": config.dropout}
    if min(shape[1:]) < _LARGE:
        # Half of the default ones, so that several seeds take minutes on a CPU, not hours.
        options["channels"] = (8,) * 5 if config.fast else (16, 32, 48, 48, 32)
    if len(heads) > 1:
        return MultiTaskAlexNet(shape, heads, **options)
    return AlexNetLike(shape, max(heads.values()), **options)


def heads_of(experiences: Iterable[Any]) -> dict[int, int]:
    """Returns the number of outputs for each task label: one more than its largest class."""
    heads: dict[int, int] = {}
    for experience in experiences:
        data = experience.dataset
        for task, label in set(zip(data.targets_task_labels, data.targets, strict=True)):
            heads[int(task)] = max(heads.get(int(task), 0), int(label) + 1)
    return heads


def optimizer_of(config: ExperimentConfig) -> OptimizerSpec:
    """The specification of the classifier's optimiser."""
    options = {"alpha": 0.9, "eps": 1e-8} if config.optimizer == "rmsprop" else {}
    return OptimizerSpec(config.optimizer, config.lr, config.schedule, options=options)


def build_stream(config: ExperimentConfig) -> Any:
    """Makes the Avalanche benchmark of a config.

    Args:
        config: Stream, its options, seed and data root. ``n_experiences`` is the number of
            experiences of a split stream; for other streams see ``learning_order``. With
            ``evaluate_on`` "validation" the test stream has held-out training images.

    Raises:
        ConfigError: An option is unknown or out of range.
        DataError: The data are missing.
    """
    benchmark = _named_stream(config)
    if config.evaluate_on == "test":
        return benchmark
    parts = with_validation(benchmark, config.validation_fraction, seed=config.seed)
    # A new benchmark, as metrics use the name of an experience's stream.
    return assemble(
        {
            name: [(e.dataset, task_name_of(e)) for e in stream]
            for name, stream in (("train", parts.train_stream), ("test", parts.valid_stream))
        }
    )


def _named_stream(config: ExperimentConfig) -> Any:
    """The stream with its original test stream."""
    from avalanche_dgm.streams import STREAMS, make_stream

    if is_class_path(config.stream):
        benchmark = class_paths.make(config.stream, config.stream_options, "stream")
        if not (hasattr(benchmark, "train_stream") and hasattr(benchmark, "test_stream")):
            raise ConfigError(
                f"The stream {config.stream} is no Avalanche benchmark with train_stream and"
                " test_stream."
            )
        return benchmark
    known = STREAMS[config.stream].options
    options: dict[str, Any] = {"seed": config.seed}
    if config.download and "download" in known:
        options["download"] = True
    if config.n_experiences is not None and "n_experiences" in known:
        options["n_experiences"] = config.n_experiences
    options |= config.stream_options
    front = options.get("front_end")
    # Names of timm's networks may have dots, too.
    if isinstance(front, str) and is_class_path(front) and "/" not in front:
        front = {"class_path": front}
    if isinstance(front, Mapping):
        arguments = front.get("init_args") or {}
        options["front_end"] = class_paths.make(front["class_path"], arguments, "front_end")
    return make_stream(config.stream, config.data_root, **options)


def learning_order(config: ExperimentConfig, benchmark: Any) -> list[int]:
    """Returns the indices of training experiences in order of learning.

    Args:
        config: ``n_experiences`` keeps the first experiences of a stream that is not split into
            that number; ``revisit`` appends experiences.
        benchmark: The stream.

    Raises:
        ConfigError: The stream has fewer experiences.
    """
    available = len(benchmark.train_stream)
    n = config.n_experiences or available
    if n > available:
        raise ConfigError(f"The stream {config.stream} has {available} experiences, not {n}.")
    for experience in config.revisit:
        if experience >= n:
            raise ConfigError(
                f"revisit has experience {experience}, but {n} experiences are numbered from 0 to"
                f" {n - 1}."
            )
    return [*range(n), *config.revisit]


def tested_as(benchmark: Any) -> list[int]:
    """Returns, for each training experience, the test experience of the same task.

    Args:
        benchmark: The stream. A repeated task is tested once.

    Raises:
        ConfigError: Training and test experiences cannot be matched by task names.
    """
    if len(benchmark.train_stream) == len(benchmark.test_stream):
        return list(range(len(benchmark.train_stream)))
    tested = [task_name_of(e) for e in benchmark.test_stream]
    trained = [task_name_of(e) for e in benchmark.train_stream]
    if None in tested or not set(trained) <= set(tested):
        raise ConfigError(
            f"The stream has {len(trained)} training and {len(tested)} test experiences, and no"
            " task_name to match them."
        )
    return [tested.index(name) for name in trained]


def tested_beside(benchmark: Any, learned: Iterable[int], tested: Sequence[int]) -> list[int]:
    """Returns the test experiences of further task labels within training experiences.

    Args:
        benchmark: The stream. An experience may have several task labels.
        learned: The training experiences.
        tested: The result of `tested_as`.
    """
    trained = heads_of(benchmark.train_stream[i] for i in learned)
    names = {task_name_of(experience) for experience in benchmark.train_stream}
    return [
        j
        for j, experience in enumerate(benchmark.test_stream)
        if j not in tested
        and task_name_of(experience) not in names
        and set(heads_of([experience])) <= set(trained)
    ]


def task_names(benchmark: Any) -> list[str]:
    """Names test experiences by their classes if these are few and distinct, else by the task."""
    groups = [sorted(int(c) for c in e.classes_in_this_experience) for e in benchmark.test_stream]
    distinct = len({tuple(group) for group in groups}) == len(groups)
    if distinct and all(len(group) <= 3 for group in groups):
        return ["/".join(map(str, group)) for group in groups]
    return [task_name_of(e) or f"task {i}" for i, e in enumerate(benchmark.test_stream, 1)]


def resolve_device(name: str) -> torch.device:
    """Converts "auto", "cpu" or "cuda" to a device.

    Raises:
        ConfigError: PyTorch finds no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("PyTorch finds no GPU. Use --device cpu, or auto.")
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

"""From a config to a benchmark, and which test experience belongs to which training experience."""

from __future__ import annotations

from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.config import ExperimentConfig


def stream_descriptions() -> dict[str, str]:
    """Returns each stream's one-line description."""
    from avalanche_dgm.streams import STREAMS

    return {name: spec.description for name, spec in STREAMS.items()}


def build_stream(config: ExperimentConfig) -> Any:
    """Makes the Avalanche benchmark that a config names.

    Args:
        config: Stream, its options, seed and data root. ``n_experiences`` says into how many
            experiences a split stream is cut; other streams keep all, see ``learning_order``.

    Raises:
        ConfigError: An option is unknown or out of range.
        DataError: The data are not there.
    """
    from avalanche_dgm.streams import STREAMS, make_stream

    known = STREAMS[config.stream].options
    options: dict[str, Any] = {"seed": config.seed}
    if config.download and "download" in known:
        options["download"] = True
    if config.n_experiences is not None and "n_experiences" in known:
        options["n_experiences"] = config.n_experiences
    return make_stream(config.stream, config.data_root, **{**options, **config.stream_options})


def learning_order(config: ExperimentConfig, benchmark: Any) -> list[int]:
    """Returns the training experiences in the order in which they are learned.

    Args:
        config: ``n_experiences`` keeps the first ones of a stream that is not cut to that number;
            ``revisit`` appends experiences.
        benchmark: The stream.

    Raises:
        ConfigError: The stream has not so many experiences.
    """
    there = len(benchmark.train_stream)
    n = config.n_experiences or there
    if n > there:
        raise ConfigError(f"The stream {config.stream} has {there} experiences, not {n}.")
    for experience in config.revisit:
        if experience >= n:
            raise ConfigError(
                f"revisit names experience {experience}, but {n} experiences count from 0 to"
                f" {n - 1}."
            )
    return [*range(n), *config.revisit]


def tested_as(benchmark: Any) -> list[int]:
    """Returns, for each training experience, the test experience of the same task.

    Args:
        benchmark: A stream of this package. A task that comes again in training is tested once.
    """
    if len(benchmark.train_stream) == len(benchmark.test_stream):
        return list(range(len(benchmark.train_stream)))
    names = [e.task_name for e in benchmark.test_stream]
    return [names.index(e.task_name) for e in benchmark.train_stream]


def task_names(benchmark: Any) -> list[str]:
    """Names each test experience by its classes if these are few and its own, else by its task.

    Args:
        benchmark: A stream of this package.
    """
    groups = [sorted(int(c) for c in e.classes_in_this_experience) for e in benchmark.test_stream]
    distinct = len({tuple(group) for group in groups}) == len(groups)
    if distinct and all(len(group) <= 3 for group in groups):
        return ["/".join(map(str, group)) for group in groups]
    return [e.task_name for e in benchmark.test_stream]

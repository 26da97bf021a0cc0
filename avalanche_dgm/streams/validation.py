"""A validation stream of training images, for tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from avalanche_dgm.checks import whole
from avalanche_dgm.streams.tensors import assemble, held_out

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario


def with_validation(benchmark: Any, fraction: float = 0.1, *, seed: int = 0) -> CLScenario:
    """Holds out training samples of each experience for a ``valid_stream``.

    The fraction is held out of each class of each task, so the stream has the balance of the
    training stream. Unlike Avalanche's ``benchmark_with_validation_stream``, it keeps task names.

    Args:
        benchmark: Any Avalanche benchmark with a training and a test stream.
        fraction: Fraction of each class to hold out, above 0 and below 1; at least one sample.
        seed: Determines the held-out samples.

    Returns:
        A benchmark with the streams ``train``, without the held-out samples, ``valid`` and
        ``test``.

    Raises:
        ConfigError: The fraction or the seed is out of range.
    """
    whole("seed", seed, least=0)
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[tuple[Any, str | None]]] = {"train": [], "valid": [], "test": []}
    for experience in benchmark.train_stream:
        data, name = experience.dataset, getattr(experience, "task_name", None)
        pairs = [torch.tensor(list(data.targets)), torch.tensor(list(data.targets_task_labels))]
        groups = torch.stack(pairs, dim=1).unique(dim=0, return_inverse=True)[1]
        chosen = held_out(
            groups, fraction, generator=generator, name="the validation stream's fraction"
        )
        parts["train"].append((data.subset((~chosen).nonzero().flatten().tolist()), name))
        parts["valid"].append((data.subset(chosen.nonzero().flatten().tolist()), name))
    for experience in benchmark.test_stream:
        parts["test"].append((experience.dataset, getattr(experience, "task_name", None)))
    extended = assemble(parts)
    for name in ("n_classes", "input_shape"):
        if hasattr(benchmark, name):
            setattr(extended, name, getattr(benchmark, name))
    return extended

"""A validation stream of training images, for whatever is tuned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from avalanche_dgm.checks import whole
from avalanche_dgm.streams.tensors import assemble, held_out

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario


def with_validation(benchmark: Any, fraction: float = 0.1, *, seed: int = 0) -> CLScenario:
    """Holds out training samples of each experience for a ``valid_stream``.

    The share is that of each class of each task, so that the stream is balanced as the training
    stream is. Settings that are chosen by it have seen no test image. Avalanche's
    ``benchmark_with_validation_stream`` does the same to the data, without task names.

    Args:
        benchmark: Any Avalanche benchmark with a training and a test stream.
        fraction: Share of each class that is held out, above 0 and below 1; at least one sample.
        seed: Governs which samples are held out.

    Returns:
        A benchmark with the streams ``train``, without these samples, ``valid`` and ``test``.

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
    made = assemble(parts)
    for name in ("n_classes", "input_shape"):
        if hasattr(benchmark, name):
            setattr(made, name, getattr(benchmark, name))
    return made

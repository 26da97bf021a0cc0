"""Metrics of generated and replayed samples for Avalanche."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricResult
from torch import Tensor

from avalanche_dgm.checks import whole
from avalanche_dgm.dashboards import views
from avalanche_dgm.metrics.frechet import extract_features
from avalanche_dgm.metrics.reconstruction import ReconstructionError
from avalanche_dgm.metrics.replayed import class_coverage
from avalanche_dgm.plugins.learned import stream_of, tests_of
from avalanche_dgm.plugins.metrics import LearningMetric, find_plugins
from avalanche_dgm.plugins.samples import split_batch, task_column

_ERRORS = {"squared": "StreamReconstructionMSE", "absolute": "StreamReconstructionMAE"}


class StreamReconstruction(LearningMetric):
    """Error of the memory's reconstructions of test images; see `generator_metrics`."""

    def __init__(self, *, stream: str = "test", seed: int = 0) -> None:
        super().__init__()
        self.stream, self.seed = stream, seed
        self._error = ReconstructionError()
        self._seen: set[int | None] = set()

    def before_eval(self, strategy: Any) -> None:
        """Resets the sums."""
        self._error.reset()
        self._seen = set(self.learned.columns(tests_of(strategy, self.stream)))

    def after_eval_iteration(self, strategy: Any) -> None:
        """Reconstructs the batch's images of learned classes."""
        experience, learned = strategy.experience, self.learned
        if learned.learning or stream_of(experience) != self.stream:
            return
        if int(experience.current_experience) not in self._seen:
            return
        images, labels, tasks = split_batch(strategy.mbatch, task_column(experience))
        mine = torch.zeros_like(labels, dtype=torch.bool)
        for task, label in learned.classes:
            mine |= (tasks == task) & (labels == label)
        for plugin in find_plugins(strategy):
            made = views.reconstructions(plugin.method, images[mine], tasks[mine], seed=self.seed)
            if made is not None:
                self._error.to(made.device)
                self._error.update(images[mine].to(made.device), made)

    def after_eval(self, strategy: Any) -> MetricResult:
        """Reports the errors; waits for the device."""
        if not int(self._error.n):
            return None
        found = self._error.compute()
        values = {name: float(found[key]) for key, name in _ERRORS.items()}
        return self._report(strategy, values, f"/eval_phase/{self.stream}_stream")


class ReplayQuality(LearningMetric):
    """Which classes were replayed, and how evenly; see `generator_metrics`."""

    def after_experience(self, strategy: Any) -> dict[str, float]:
        """Returns both, if something was replayed."""
        known = sorted(self.learned.labels_before())
        counts: Counter[int] = Counter()
        for plugin in find_plugins(strategy):
            counts.update(plugin.stats.histogram)
        if not known or not any(counts.values()):
            return {}
        found = class_coverage(torch.tensor([counts[label] for label in known]))
        values = {"ReplayCoverage": found["coverage"], "ReplayEntropy": found["entropy"]}
        return {name: float(value) for name, value in values.items() if not value.isnan()}


class ReplayAgreement(LearningMetric):
    """Share of a memory's samples that a reference agrees with; see `generator_metrics`."""

    def __init__(
        self, reference: Callable[[Tensor], Tensor], *, per_class: int = 50, seed: int = 0
    ) -> None:
        super().__init__()
        whole("per_class", per_class)
        self.reference, self.per_class, self.seed = reference, per_class, seed

    def after_experience(self, strategy: Any) -> dict[str, float]:
        """Samples the memory, if it has samples."""
        n, agreed = len(self.learned.classes), []
        for plugin in find_plugins(strategy):
            found = views.samples(plugin.method, self.per_class, n_classes=n, seed=self.seed)
            for (_, label), samples in found.items():
                answers = extract_features(self.reference, samples).argmax(dim=1)
                agreed.append(answers == label)
        return {"ReplayLabelAgreement": float(torch.cat(agreed).float().mean())} if agreed else {}


def generator_metrics(
    *,
    reconstruction: bool = True,
    coverage: bool = True,
    reference: Callable[[Tensor], Tensor] | None = None,
    per_class: int = 50,
    stream: str = "test",
    seed: int = 0,
) -> list[PluginMetric[dict[str, float]]]:
    """Returns metrics of generated and replayed samples for an ``EvaluationPlugin``.

    - ``StreamReconstructionMSE/eval_phase/test_stream`` and ``StreamReconstructionMAE/...``, after
      an evaluation: error of the memory's reconstructions of the test images that belong to
      learned experiences, in squared units of the images and in their units. Methods that do not
      reconstruct report none.
    - ``ReplayCoverage`` and ``ReplayEntropy``, after an experience in which something was replayed:
      see `avalanche_dgm.metrics.ClassCoverage`, of the classes learned before it. Of several
      processes each sees what it replayed itself.
    - ``ReplayLabelAgreement``, after an experience: see `avalanche_dgm.metrics.LabelAgreement`, of
      samples that are drawn to be judged, as they would be replayed.

    The random numbers of the method and all others stay as they are: what is learned is the same
    without these metrics. Evaluations while an experience is learned do not count.

    Args:
        reconstruction: Report errors of reconstructions.
        coverage: Report which classes were replayed.
        reference: A classifier that judges labels: from samples (n, *shape), in the user's units,
            to logits (n, K), such as `avalanche_dgm.metrics.train_reference` returns; ``None`` to
            report no agreement. It becomes a part of the strategy's checkpoints.
        per_class: Samples of each class that it judges, at most.
        stream: Name of the stream whose evaluations count.
        seed: Seed of the samples.

    Raises:
        ConfigError: ``per_class`` is below 1.
    """
    found: list[PluginMetric[dict[str, float]]] = []
    if reconstruction:
        found.append(StreamReconstruction(stream=stream, seed=seed))
    if coverage:
        found.append(ReplayQuality())
    if reference is not None:
        found.append(ReplayAgreement(reference, per_class=per_class, seed=seed))
    return found

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
        known = torch.zeros_like(labels, dtype=torch.bool)
        for task, label in learned.classes:
            known |= (tasks == task) & (labels == label)
        images, tasks = images[known], tasks[known]
        for plugin in find_plugins(strategy):
            outputs = views.reconstructions(plugin.method, images, tasks, seed=self.seed)
            if outputs is not None:
                self._error.to(outputs.device)
                self._error.update(images.to(outputs.device), outputs)

    def after_eval(self, strategy: Any) -> MetricResult:
        """Reports the errors; synchronises with the device."""
        if not int(self._error.n):
            return None
        found = self._error.compute()
        values = {name: float(found[key]) for key, name in _ERRORS.items()}
        return self._report(strategy, values, f"/eval_phase/{self.stream}_stream")


class ReplayQuality(LearningMetric):
    """Coverage and entropy of the replayed classes; see `generator_metrics`."""

    def after_experience(self, strategy: Any) -> dict[str, float]:
        """Returns coverage and entropy, if samples were replayed."""
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
    """Accuracy of a memory's labels by a reference classifier; see `generator_metrics`."""

    def __init__(
        self, reference: Callable[[Tensor], Tensor], *, per_class: int = 50, seed: int = 0
    ) -> None:
        super().__init__()
        whole("per_class", per_class)
        self.reference, self.per_class, self.seed = reference, per_class, seed

    def after_experience(self, strategy: Any) -> dict[str, float]:
        """Samples the memory, if it can generate samples."""
        n, agreed = len(self.learned.classes), []
        for plugin in find_plugins(strategy):
            found = views.samples(plugin.method, self.per_class, n_classes=n, seed=self.seed)
            for (_, label), samples in found.items():
                predictions = extract_features(self.reference, samples).argmax(dim=1)
                agreed.append(predictions == label)
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
      an evaluation: error of the memory's reconstructions of test images of learned experiences,
      in squared units and units of the images; not reported for methods without reconstructions.
    - ``ReplayCoverage`` and ``ReplayEntropy``, after an experience with replay: see
      `avalanche_dgm.metrics.ClassCoverage`, of previously learned classes. Each process counts its
      own shard of the replay.
    - ``ReplayLabelAgreement``, after an experience: see `avalanche_dgm.metrics.LabelAgreement`, of
      samples generated for this metric as for replay.

    Random states are restored, so training is the same without these metrics. Evaluations during
    training are ignored.

    Args:
        reconstruction: Report reconstruction errors.
        coverage: Report the coverage and entropy of replayed classes.
        reference: A classifier that checks labels: from samples (n, *shape), in the user's units,
            to logits (n, K), such as from `avalanche_dgm.metrics.train_reference`; ``None`` to
            report no agreement. It is saved in the strategy's checkpoints.
        per_class: Maximum number of samples per class for ``reference``.
        stream: Name of the evaluated stream.
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

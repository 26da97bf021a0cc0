"""Metrics of generated and replayed samples for Avalanche."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricResult
from torch import Tensor, nn

from avalanche_dgm.dashboards import views
from avalanche_dgm.metrics.frechet import extract_features
from avalanche_dgm.metrics.reconstruction import ReconstructionError
from avalanche_dgm.metrics.replayed import ClassCoverage, LabelAgreement
from avalanche_dgm.plugins.learned import Learned, stream_of, tests_of
from avalanche_dgm.plugins.metrics import ReportedValues, find_plugins
from avalanche_dgm.plugins.samples import split_batch, task_column
from avalanche_dgm.settings import whole

_ERRORS = {"squared": "StreamReconstructionMSE", "absolute": "StreamReconstructionMAE"}


class _GeneratorMetric(ReportedValues):
    """Base of metrics that track the experiences learned."""

    def __init__(self) -> None:
        super().__init__()
        self._learned = Learned()

    def reset(self, **kwargs: Any) -> None:
        """Resets the metric and the experiences learned."""
        super().reset()
        self._learned = Learned()

    def before_training_exp(self, strategy: Any) -> MetricResult:
        """Records the experience that is learned."""
        self._learned.begin(strategy.experience)
        return None

    def after_training_exp(self, strategy: Any) -> MetricResult:
        """Records the experience that was learned."""
        self._learned.end(strategy.experience)
        return None


class StreamReconstruction(_GeneratorMetric):
    """Error of the memory's reconstructions of test images of learned classes.

    Args:
        stream: Name of the stream whose evaluations count.
        seed: Seed of random reconstructions.
    """

    def __init__(self, *, stream: str = "test", seed: int = 0) -> None:
        super().__init__()
        self.stream, self.seed = stream, seed
        self._error = ReconstructionError()
        self._seen: set[int | None] = set()

    def before_eval(self, strategy: Any) -> None:
        """Resets the sums."""
        self._error.reset()
        self._seen = set(self._learned.columns(tests_of(strategy, self.stream)))

    def after_eval_iteration(self, strategy: Any) -> None:
        """Reconstructs the batch's images of learned classes."""
        experience, learned = strategy.experience, self._learned
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


class ReplayQuality(_GeneratorMetric):
    """Which of the classes learned before an experience were replayed in it, and how evenly."""

    def after_training_exp(self, strategy: Any) -> MetricResult:
        """Reports it, if something was replayed and an experience is over."""
        known = self._learned.labels()
        if not self._learned.end(strategy.experience) or not known:
            return None
        counts: dict[int, int] = {}
        for plugin in find_plugins(strategy):
            for label, count in plugin.stats.histogram.items():
                counts[label] = counts.get(label, 0) + count
        if not any(counts.values()):
            return None
        coverage = ClassCoverage(max(*known, *counts) + 1, known=known)
        labels = torch.tensor(list(counts), dtype=torch.int64)
        coverage.update(labels.repeat_interleave(torch.tensor(list(counts.values()))))
        found = coverage.compute()
        values = {"ReplayCoverage": found["coverage"], "ReplayEntropy": found["entropy"]}
        numbers = {name: float(v) for name, v in values.items() if not v.isnan()}
        return self._report(strategy, numbers)


class ReplayAgreement(_GeneratorMetric):
    """Share of a memory's samples whose labels a reference classifier agrees with.

    Args:
        reference: From samples (n, *shape) to logits (n, K), a column a label.
        per_class: Most samples of each class.
        seed: Seed of the samples.

    Raises:
        ConfigError: ``per_class`` is below 1.
    """

    def __init__(
        self, reference: Callable[[Tensor], Tensor], *, per_class: int = 50, seed: int = 0
    ) -> None:
        super().__init__()
        whole("per_class", per_class)
        self.reference, self.per_class, self.seed = reference, per_class, seed

    def after_training_exp(self, strategy: Any) -> MetricResult:
        """Samples and reports after an experience, if the memory has samples."""
        if not self._learned.end(strategy.experience):
            return None
        n = len(self._learned.classes)
        drawn: list[tuple[int, Tensor]] = []
        for plugin in find_plugins(strategy):
            found = views.samples(plugin.method, self.per_class, n_classes=n, seed=self.seed)
            drawn += [(label, samples) for (_, label), samples in found.items()]
        if not drawn:
            return None
        # A network may label noise as any class.
        agreement = LabelAgreement(max(label for label, _ in drawn) + 1)
        for label, samples in drawn:
            answers = extract_features(self.reference, samples.to(self._device(samples)))
            labels = torch.full((len(samples),), label, device=answers.device)
            agreement.to(answers.device).update(answers, labels)
        return self._report(strategy, {"ReplayLabelAgreement": float(agreement.compute())})

    def _device(self, samples: Tensor) -> torch.device:
        owner = getattr(self.reference, "__self__", self.reference)
        weights = owner.parameters() if isinstance(owner, nn.Module) else iter(())
        return next((p.device for p in weights), samples.device)


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

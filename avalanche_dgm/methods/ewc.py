"""Elastic weight consolidation (Kirkpatrick et al. 2017).

==========================================  =======================================================
paper                                       code
==========================================  =======================================================
penalty lambda / 2 F (w - w*)^2, Eq. 3      `ElasticPenalty`, `ElasticWeightConsolidation.loss`
a penalty for each task, Section 2.1        `ElasticPenalty.add`: one penalty, equal to their sum
diagonal of the Fisher information F        `squared_gradients`, `ElasticWeightConsolidation.fisher`
lambda                                      ``ewc_lambda``
==========================================  =======================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from avalanche_dgm.data import ExperienceData, Step
from avalanche_dgm.elastic import ElasticPenalty, squared_gradients
from avalanche_dgm.fitting import Phase
from avalanche_dgm.methods.base import Method
from avalanche_dgm.methods.registry import register
from avalanche_dgm.modules import at_least_single, evaluating, in_chunks, in_type_of
from avalanche_dgm.settings import MethodSettings


@dataclass(frozen=True, kw_only=True)
class ElasticWeightConsolidationSettings(MethodSettings):
    """Settings of elastic weight consolidation (Kirkpatrick et al. 2017).

    Attributes:
        ewc_lambda: Factor lambda of the penalty (Eq. 3), 0 or more, relative to the mean
            cross-entropy; it is scaled with the criterion. Larger values preserve old tasks and
            slow down new ones.
        fisher: Labels for the Fisher information: ``"true"``, sampled from the network's
            predictions; ``"empirical"``, those of the data, whose gradients vanish once learned.
        fisher_samples: Samples of an experience used for the estimate; ``None`` for all.
    """

    ewc_lambda: float = field(default=100.0, metadata={"least": 0})
    fisher: Literal["true", "empirical"] = "true"
    fisher_samples: int | None = None


def _paper(stream: str, *, scale: float) -> dict[str, Any]:
    """The coefficient in Kamra et al. 2017, appendix B.5."""
    return {"ewc_lambda": 100.0}


@register(
    "ewc",
    "elastic weight consolidation, Fisher information from per-sample gradients",
    fast={"fisher_samples": 64},
    paper=_paper,
)
class ElasticWeightConsolidation(Method):
    """Elastic weight consolidation: a penalty on changes of weights important for old tasks.

    Attributes:
        penalty: The quadratic penalty of all learned tasks.
    """

    settings_type: ClassVar[type[MethodSettings]] = ElasticWeightConsolidationSettings

    def __init__(
        self, settings: ElasticWeightConsolidationSettings | None = None, **changes: Any
    ) -> None:
        super().__init__(settings, **changes)
        self.penalty = ElasticPenalty()

    def check(self, data: ExperienceData) -> None:
        """See `Method.check`.

        Raises:
            CapacityError: The penalty does not fit into ``memory_budget``.
        """
        super().check(data)
        trained = [p for p in self._attached.parameters() if p.requires_grad]
        self._check_budget(
            4 + sum(8 * p.numel() for p in trained),
            "It keeps two numbers for each trained weight: give more, or use a smaller model.",
        )

    def before_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Trains nothing.

        Raises:
            ConfigError: The classifier lacks weights that the penalty needs.
        """
        self.penalty.check(self._attached)
        yield from ()

    def loss(self, step: Step) -> Tensor | None:
        """Lambda times the penalty (Eq. 3)."""
        if not self.penalty.shapes:
            return None
        return self.criterion.scaled(
            self.settings.ewc_lambda * self.penalty(self._attached), step.n
        )

    def end(self, data: ExperienceData) -> None:
        """Adds the experience's Fisher information to the penalty."""
        self.penalty.add(self._attached, self.fisher(data))
        super().end(data)

    def fisher(self, data: ExperienceData) -> dict[str, Tensor]:
        """The diagonal of the classifier's Fisher information, averaged over samples.

        Args:
            data: The samples.

        Returns:
            Tensor of each trained parameter's shape, by the parameter's name.
        """
        learner, n = self._attached, len(data)
        if self.settings.fisher_samples is not None and self.settings.fisher_samples < n:
            order = torch.randperm(n, generator=self.rng, device=data.images.device)
            data = data.take(order[: self.settings.fisher_samples])
        labels = self._drawn_labels(data) if self.settings.fisher == "true" else data.labels
        images, total = in_type_of(learner, data.images), dict[str, Tensor]()
        for task in torch.unique(data.tasks):
            selected = data.tasks == task
            loss = partial(self._negative_log_likelihood, task[None])
            fisher = squared_gradients(learner, loss, images[selected], labels[selected])
            total = {name: values + total.get(name, 0) for name, values in fisher.items()}
        return {name: at_least_single(values) / len(data) for name, values in total.items()}

    def _drawn_labels(self, data: ExperienceData) -> Tensor:
        """A label for each sample, drawn from the classifier's predictive distribution."""

        def probabilities(images: Tensor, tasks: Tensor) -> Tensor:
            return self._log_likelihood(self._logits(images, tasks)).exp()

        with evaluating(self.learner):
            p = in_chunks(probabilities, data.images, data.tasks)
        return torch.multinomial(p, 1, generator=self.rng)[:, 0]

    def _negative_log_likelihood(
        self, task: Tensor, network: Callable[..., Tensor], image: Tensor, label: Tensor
    ) -> Tensor:
        """The negative log-likelihood of the label of one image, with its task label (1,)."""
        logits = network(image[None], task) if self.task_aware else network(image[None])
        return F.nll_loss(self._log_likelihood(logits), label[None])

    def _log_likelihood(self, outputs: Tensor) -> Tensor:
        if self.criterion.scale.takes == "probabilities":
            outputs = outputs.clamp(min=torch.finfo(outputs.dtype).tiny).log()
        return F.log_softmax(at_least_single(outputs), dim=1)

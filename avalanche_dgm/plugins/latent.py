"""Latent replay as an Avalanche plugin."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.models.dynamic_modules import MultiTaskModule
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import ConfigError, UnsupportedModelError
from avalanche_dgm.memories.classifiers import logits_of
from avalanche_dgm.methods import ALTM, LatentReplay
from avalanche_dgm.plugins.base import MethodPlugin
from avalanche_dgm.plugins.experiences import TaskOracle
from avalanche_dgm.plugins.samples import split_batch
from avalanche_dgm.signatures import takes_arguments_of


class LatentModel(nn.Module):
    """Answers images with the user's model, and latents with what is behind its compressor.

    Args:
        model: The user's model, which stays what it was.
        method: Knows how it is cut.
    """

    def __init__(self, model: nn.Module, method: LatentReplay) -> None:
        super().__init__()
        self._wrap(model, method)

    def _wrap(self, model: nn.Module, method: LatentReplay) -> None:
        self.model = model
        # Past nn.Module's own __setattr__, which would register it.
        object.__setattr__(self, "_method", method)

    @property
    def method(self) -> LatentReplay:
        """What remembers."""
        return self.__dict__["_method"]

    def route(self, x: Tensor, tasks: Tensor) -> Tensor:
        """Returns logits.

        Args:
            x: Images (n, *shape) or latents (n, *latent shape).
            tasks: int64 tensor (n,), task labels.
        """
        if self.method.split is not None and self.method.are_latents(x):
            return self.method.split.answer(x, tasks)
        return logits_of(self.model, x, tasks, task_aware=isinstance(self.model, MultiTaskModule))

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (n, classes) for images or latents."""
        return self.route(x, torch.zeros(len(x), dtype=torch.int64, device=x.device))


class LatentMultiTaskModel(LatentModel, MultiTaskModule):
    """The same around a model that is given task labels."""

    def __init__(self, model: nn.Module, method: LatentReplay) -> None:
        MultiTaskModule.__init__(self)
        self._wrap(model, method)

    def forward(  # type: ignore[override]
        self, x: Tensor, task_labels: Tensor | None = None
    ) -> Tensor | dict[int, Tensor]:
        """Returns logits, or those of each task that was trained where there are no task labels.

        Args:
            x: Images (n, *shape) or latents (n, *latent shape).
            task_labels: int64 tensor (n,).
        """
        if task_labels is None:
            return MultiTaskModule.forward_all_tasks(self, x)
        return self.route(x, task_labels)

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        """Returns logits for samples of one task label."""
        return self.route(x, torch.full((len(x),), task_label, device=x.device))


class LatentPlugin(MethodPlugin):
    """Drives a method that may train the classifier on latents.

    ``strategy.model`` becomes a `LatentModel` around the user's model, which answers images and
    latents; `finish` puts the user's model back. An experience is encoded once, unless it is
    augmented or another plugin puts other samples among its own: then batch by batch.
    """

    method: LatentReplay | ALTM

    @property
    def latents(self) -> LatentReplay | None:
        """What cuts the model, or ``None`` if the method is trained on images."""
        return self.method if isinstance(self.method, LatentReplay) else self.method.latents

    @property
    def partner_kind(self) -> str:
        """See `MethodPlugin.partner_kind`."""
        return "batch" if self.latents is None else "latents"

    def learner_of(self, strategy: Any) -> nn.Module:
        """The user's model, wrapped or not."""
        model = strategy.model
        return model.model if isinstance(model, LatentModel) else model

    def begin(self, strategy: Any, data: ExperienceData) -> None:
        """Starts the experience, and wraps the model once if latents will be learned."""
        super().begin(strategy, data)
        model, latents = strategy.model, self.latents
        if latents is None:
            return
        if not isinstance(model, LatentModel):
            kind = LatentMultiTaskModel if isinstance(model, MultiTaskModule) else LatentModel
            wrapped = kind(model, latents).to(strategy.device).train(model.training)
            self.put_model(strategy, wrapped)

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Encodes the batch, unless the experience is encoded."""
        batch, latents = strategy.mbatch, self.latents
        if latents is not None:
            images, _, tasks = split_batch(batch, self._column)
            strategy.mbatch = [latents.encode_batch(images, tasks), *batch[1:]]


@takes_arguments_of(LatentReplay)
class LatentReplayPlugin(LatentPlugin):
    """Latent replay (Saez de Ocariz Borde 2022) for any model and strategy.

    Say where the model is cut: by the name of a layer, or by its two parts. After the first
    experience what comes before the cut is frozen, and the rest goes on learning from new and from
    remembered latents::

        strategy = Naive(model=net, optimizer=opt, plugins=[LatentReplayPlugin(layer="features.3")])

    ``strategy.model`` is wrapped, see `LatentPlugin`.

    Args:
        layer: Name of the last layer before the cut; see `avalanche_dgm.methods.LatentReplay`.
        compressor: The part of the strategy's model before the cut, instead of ``layer``.
        classifier: The part that maps latents to logits, or its name.
        seed: Seed of what is drawn; ``None`` follows ``torch.manual_seed``.
        oracle: How tasks are told apart in training; see `MethodPlugin`.
        progress: Whether to show progress bars.
        **hyper: Any other argument of `avalanche_dgm.methods.LatentReplay`.

    Raises:
        ConfigError: A hyper-parameter is unknown or cannot work.
    """

    method: LatentReplay

    def __init__(
        self,
        *,
        layer: str | int | None = None,
        compressor: nn.Module | None = None,
        classifier: nn.Module | str | None = None,
        seed: int | None = None,
        oracle: str | TaskOracle = "auto",
        progress: bool = False,
        **hyper: Any,
    ) -> None:
        if layer is not None and compressor is not None:
            raise ConfigError("Give layer or compressor, not both: each says where the cut is.")
        name = classifier if isinstance(classifier, str) else None
        method = LatentReplay(layer=layer, classifier=name, seed=seed, **hyper)
        super().__init__(method, oracle=oracle, progress=progress)
        self._compressor = compressor
        self._classifier = classifier if isinstance(classifier, nn.Module) else None

    def attach(self, model: nn.Module) -> None:
        """See `MethodPlugin.attach`; finds the parts in the model first."""
        if not isinstance(model, nn.Module):
            raise UnsupportedModelError(
                f"The strategy's model is a {type(model).__name__}, not a torch.nn.Module."
            )
        if self._compressor is not None:
            self.method.layer = name_of(model, self._compressor, "compressor")
        if self._classifier is not None:
            self.method.classifier = name_of(model, self._classifier, "classifier")
        super().attach(model)


def name_of(model: nn.Module, part: nn.Module, what: str) -> str:
    """The name that a model has for one of its parts.

    Args:
        model: The model.
        part: The very object.
        what: How messages call it.

    Raises:
        ConfigError: It is no part of the model.
    """
    for name, module in model.named_modules():
        if module is part and name:
            return name
    raise ConfigError(
        f"The {what} is no part of the strategy's model. Build the model of the very same objects,"
        " for example model=torch.nn.Sequential(compressor, classifier)."
    )

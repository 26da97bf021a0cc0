"""The LightningModule around a method."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from avalanche.models.dynamic_modules import MultiTaskModule
from torch import Tensor, nn

from avalanche_dgm.dashboards.keys import settings_of
from avalanche_dgm.errors import ConfigError, UnsupportedModelError
from avalanche_dgm.lightning.base import OptimizerMaker, read_optimizer
from avalanche_dgm.lightning.learning import LearningStage
from avalanche_dgm.lightning.staged import StagedModule, needed
from avalanche_dgm.lightning.stages import Schedule
from avalanche_dgm.lightning.testing import StreamTest
from avalanche_dgm.methods import Method, Naive
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.plugins.optimizers import check_step, replace_parameters
from avalanche_dgm.settings import MethodSettings, plain

#: Default optimiser of a classifier: Adam with a learning rate of 0.001.
ADAM = OptimizerSpec()


class MethodModule(StagedModule):
    """A classifier that learns a stream with a continual-learning method.

    `avalanche_dgm.lightning.fit_stream` trains it; ``trainer.test``, ``trainer.predict`` and
    ``trainer.save_checkpoint`` work as with any module. A subclass sets its method in ``kind``.
    A checkpoint holds the model's weights, but no code: load it with
    ``load_from_checkpoint(path, model=...)``, and pass functions given as ``optimizer`` or
    ``criterion`` again.

    Args:
        model: The classifier: images (n, *shape) to logits (n, classes), or images and task labels
            for an Avalanche ``MultiTaskModule``.
        optimizer: Optimiser of the classifier, kept across experiences as a strategy's is: an
            `OptimizerSpec`, whose schedule restarts in each experience; a dictionary of its
            fields; or a function from parameters to an optimiser.
        criterion: The loss on new samples, from logits (n, classes) and labels (n,) to a scalar.
        settings: All hyper-parameters of the method; those given by name take precedence.
        **hyper: Hyper-parameters of the method.

    Raises:
        ConfigError: A hyper-parameter is unknown or out of range.
        UnsupportedModelError: The model is not a ``torch.nn.Module``.
    """

    kind: ClassVar[type[Method]] = Naive

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: OptimizerSpec | OptimizerMaker | dict[str, Any] = ADAM,
        criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        settings: MethodSettings | None = None,
        **hyper: Any,
    ) -> None:
        super().__init__()
        if settings is not None:
            hyper = {**{f.name: getattr(settings, f.name) for f in fields(settings)}, **hyper}
        if not isinstance(model, nn.Module):
            raise UnsupportedModelError(
                f"The model is a {type(model).__name__}, not a torch.nn.Module."
            )
        optimizer = read_optimizer(optimizer)
        if not callable(criterion):
            raise ConfigError(
                f"criterion={criterion!r} is not a function. Pass one, also to"
                " load_from_checkpoint: a checkpoint holds no code."
            )
        for name, value in hyper.items():
            if isinstance(value, str) and value.startswith("<"):
                raise ConfigError(
                    f"{name} was an object, {value}. Pass it to load_from_checkpoint again: a"
                    " checkpoint holds no code."
                )
        # Lightning warns about hyper-parameters that are modules, such as a generator.
        modules = [name for name, value in hyper.items() if isinstance(value, nn.Module)]
        self.save_hyperparameters(ignore=["model", "criterion", "settings", *modules])
        # Plain values that a checkpoint can hold and `load_from_checkpoint` passes to __init__.
        given = {**self.hparams, **{name: hyper[name] for name in modules}}
        self.hparams.update({name: plain(value) for name, value in given.items()})
        if criterion is not F.cross_entropy and type(criterion) is not nn.CrossEntropyLoss:
            self.hparams["criterion"] = plain(criterion)
        self.model, self.criterion, self._make_optimizer = model, criterion, optimizer
        self.method = self.kind(**hyper)
        self.task_aware = isinstance(model, MultiTaskModule)
        self.method.attach(model, task_aware=self.task_aware)
        #: The classifier's optimiser; ``None`` before `learning_optimizer` is called.
        self.current_optimizer: torch.optim.Optimizer | None = None
        self._optimized: dict[str, nn.Parameter] = {}
        #: The current test of `fit_stream`.
        self.stream_test: StreamTest | None = None

    @property
    def hparams_initial(self) -> Any:
        """Hyper-parameters for a Trainer's loggers: `hparams` and all settings of the method."""
        initial = copy.copy(self.hparams)
        initial.update({"method": settings_of(self.method)})
        return initial

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.method._make_fit(state_dict, f"{prefix}method.")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, images: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Predicts with the method's test-time classifier.

        Args:
            images: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels; 0 by default.

        Returns:
            Logits (n, classes).
        """
        if tasks is None:
            tasks = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return self.method.predict(images, tasks)

    def setup(self, stage: str) -> None:
        """Checks how the module is trained.

        Raises:
            ConfigError: ``trainer.fit`` was called instead of `fit_stream`.
        """
        super().setup(stage)
        if stage == "fit" and self.stage is None:
            name = type(self).__name__
            raise ConfigError(
                f"{name} learns a stream of experiences in several fits. Instead of trainer.fit,"
                f" call avalanche_dgm.lightning.fit_stream({name}(...), benchmark)."
            )

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs loss and accuracy of the classifier in training, on the validation stream."""
        learning = self.stage
        if not isinstance(learning, LearningStage):
            raise ConfigError(
                "Validation runs only while a stream is learned: give fit_stream a benchmark with"
                " a valid_stream. To test a trained module, call trainer.test(module, loader)."
            )
        logits = self.method(batch[0], batch[-1], width=learning.width)
        self._add_batch("val", logits, batch)

    @needed
    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Logs loss and accuracy; during `fit_stream`, updates the accuracy matrix."""
        if self.stream_test is not None:
            self.stream_test.step(batch, batch_idx, dataloader_idx)
            return
        self._add_batch("test", self(batch[0], batch[-1] if len(batch) > 2 else None), batch)

    def _add_batch(self, stage: str, logits: Tensor, batch: Any) -> None:
        labels = batch[1]
        loss = self.criterion(logits, labels)
        means = {
            f"{stage}/loss": loss / len(labels) if self.method.criterion.scale.sums else loss,
            f"{stage}/accuracy": (logits.argmax(dim=1) == labels).float().mean(),
        }
        self.log_means(means, len(labels))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Logits of a batch: images, or a tuple with images first and task labels last."""
        if isinstance(batch, Tensor):
            return self(batch)
        return self(batch[0], batch[-1] if len(batch) > 2 else None)

    def learning_optimizer(
        self, learner: nn.Module, *, fused: bool = True
    ) -> torch.optim.Optimizer:
        """The optimiser of a classifier; with ``fused``, a new one may be a fused one.

        New parameters have no optimiser state yet; the others keep theirs.

        Raises:
            ConfigError: ``optimizer`` did not return a usable optimiser.
        """
        before, now = self._optimized, _trainable(learner)
        if self.current_optimizer is None:
            self.current_optimizer, before = self._new_optimizer(learner, fused=fused), now
        new, group_of = now.keys() - before.keys(), dict[int, int]()
        if new:
            # New parameters join the group in which a new optimiser would have them.
            groups = self._new_optimizer(learner, fused=fused).param_groups
            if len(groups) != len(self.current_optimizer.param_groups):
                raise ConfigError(
                    f"optimizer made {len(self.current_optimizer.param_groups)} parameter groups"
                    f" before and {len(groups)} now, so the group of {min(new)} is not known."
                    " Make the same number each time."
                )
            group_of = {id(p): i for i, group in enumerate(groups) for p in group["params"]}
        replace_parameters(
            self.current_optimizer, before, now, lambda parameter: group_of.get(id(parameter))
        )
        self._optimized = now
        return self.current_optimizer

    def _new_optimizer(self, learner: nn.Module, *, fused: bool) -> torch.optim.Optimizer:
        make = self._make_optimizer
        if isinstance(make, OptimizerSpec):
            return make.build(learner, fused=fused)
        optimizer = make([*_trainable(learner).values()])
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError(
                f"optimizer returned a {type(optimizer).__name__}; pass an OptimizerSpec, or a"
                " function from parameters to a torch.optim.Optimizer."
            )
        check_step(optimizer)
        return optimizer

    def learning_schedule(
        self, optimizer: torch.optim.Optimizer, steps: int, steps_per_batch: int
    ) -> Schedule:
        """The classifier's schedule over the optimiser steps of an experience, or ``None``."""
        spec = self._make_optimizer
        if not isinstance(spec, OptimizerSpec):
            return None
        return spec.build_schedule(optimizer, steps, turns=steps_per_batch)

    @property
    def cosine_lr(self) -> float | None:
        """The initial learning rate of a cosine schedule; ``None`` for any other schedule."""
        spec = self._make_optimizer
        return spec.lr if isinstance(spec, OptimizerSpec) and spec.schedule == "cosine" else None


def _trainable(learner: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in learner.named_parameters() if p.requires_grad}

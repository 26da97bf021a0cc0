"""A strategy whose loops over batches are a Trainer's for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from avalanche.models.dynamic_modules import MultiTaskModule

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import internals
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.staged import run_phase_on
from avalanche_dgm.lightning.strategies.evaluation import DistributedEvaluation
from avalanche_dgm.lightning.strategies.module import (
    StrategyBatches,
    StrategyModule,
    StrategyStage,
)
from avalanche_dgm.plugins.metrics import find_plugins

#: The options of loaders that concern how, not what is read: those of training hold for tests.
_READING = ("num_workers", "pin_memory", "persistent_workers", "ffcv_args")


class StrategySession:
    """Trains and evaluates with the strategy's own ``train`` and ``eval``.

    They keep the order of everything around the batches; only ``_train_exp`` and ``eval_epoch``
    are replaced while the session is `installed`. Nothing of it stays with the strategy.

    Args:
        trainer: The Trainer, in each of its processes.
        strategy: The strategy.
        name: What progress bars call the training.
        check_ranks: Whether to check that all processes read the same batches.
    """

    def __init__(self, trainer: pl.Trainer, strategy: Any, *, name: str, check_ranks: bool) -> None:
        self._trainer, self._strategy = trainer, strategy
        self._name, self._check_ranks = name, check_ranks
        self._evaluation = DistributedEvaluation(trainer, strategy)
        self._batches = StrategyBatches(trainer, strategy, self._evaluation)
        self._module = StrategyModule(strategy, self._batches)
        self._training = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Puts the Trainer's loops into the strategy."""
        strategy, trainer = self._strategy, self._trainer
        plugins = find_plugins(strategy)
        for plugin in plugins:
            run_phase: Any = partial(_run_phase, trainer, plugin)
            plugin.run_phase = run_phase  # type: ignore[method-assign]
            plugin.draw = partial(self._evaluation.sample_replay, plugin)  # type: ignore[method-assign]
        contexts = [
            internals.with_loops(strategy, train=self._train_exp, evaluate=self._eval_epoch),
            self._evaluation.installed(),
            internals.full_batch_loaders(),
        ]
        ddp = isinstance(trainer.strategy, pl.strategies.DDPStrategy)
        heads = any(isinstance(part, MultiTaskModule) for part in strategy.model.modules())
        if ddp and heads and internals.finds_unused(trainer) is None:
            # Heads of other tasks get no gradient from a batch.
            contexts.append(internals.finding_unused(trainer))
        try:
            with ExitStack() as stack:
                for context in contexts:
                    stack.enter_context(context)
                yield
        finally:
            for plugin in plugins:
                del plugin.run_phase, plugin.draw

    def train(self, experience: Any, streams: Sequence[Any] | None, **options: Any) -> None:
        """Trains on an experience.

        Args:
            experience: A training experience.
            streams: For evaluations in training; see ``strategy.train``.
            **options: For loaders and the hooks of plugins.
        """
        self._training = True
        try:
            self._strategy.train(experience, streams, **options)
        finally:
            self._training = False

    def test(self, stream: Any, **options: Any) -> dict[str, Any]:
        """Evaluates on a stream.

        Args:
            stream: Test experiences, or ``None`` to evaluate nothing.
            **options: The options of `train`.

        Returns:
            The evaluator's last metrics.
        """
        if stream is not None:
            reading = {name: value for name, value in options.items() if name in _READING}
            self._strategy.eval(stream, **reading)
        return dict(self._strategy.evaluator.get_last_metrics())

    def _train_exp(self, experience: Any, streams: Any = None, **options: Any) -> None:
        strategy = self._strategy
        if strategy.train_epochs < 1 or _length(strategy.dataloader) == 0:
            internals.train_alone(strategy, experience, streams, **options)
            return
        stage = StrategyStage(
            self._name, self._batches, check_ranks=self._check_ranks, options=options
        )
        self._module.run(self._trainer, stage)

    def _eval_epoch(self, **options: Any) -> None:
        strategy = self._strategy
        if self._training or _length(strategy.dataloader) == 0:
            # A Trainer has no loop within another; here every process evaluates all of it.
            with self._trainer.precision_plugin.val_step_context():
                type(strategy).eval_epoch(strategy, **options)
        else:
            self._module.test(self._trainer, **options)


def _length(loader: Any) -> int:
    try:
        return len(loader)
    except TypeError as error:
        raise ConfigError(
            f"The strategy's data loader, a {type(loader).__name__}, has no length, which a Trainer"
            " needs. Give it a __len__: its number of batches."
        ) from error


def _run_phase(trainer: pl.Trainer, plugin: Any, phase: Any) -> float:
    seconds = run_phase_on(trainer, plugin.method, phase)
    # The time is remembered with the method, which shall be the same everywhere.
    return trainer.strategy.broadcast(seconds)

"""The run of a strategy over a stream, in one process of a Trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from avalanche.models.dynamic_modules import MultiTaskModule

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import internals
from avalanche_dgm.lightning.callbacks import reset_callbacks
from avalanche_dgm.lightning.limits import smoke_batches
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import broadcast_state, check_identical, lock_folder
from avalanche_dgm.lightning.run_folder import RunFolder
from avalanche_dgm.lightning.staged import run_phase_on
from avalanche_dgm.lightning.stopping import STOPS, report_stop
from avalanche_dgm.lightning.strategies.batches import StrategyBatches
from avalanche_dgm.lightning.strategies.evaluation import DistributedEvaluation
from avalanche_dgm.lightning.strategies.module import StrategyModule, StrategyStage
from avalanche_dgm.plugins.checkpoints import maybe_load_checkpoint, save_checkpoint
from avalanche_dgm.plugins.fingerprint import store_fingerprint
from avalanche_dgm.plugins.metrics import find_plugins

#: Loader options that are passed to ``strategy.eval``, too.
_EVAL_OPTIONS = ("num_workers", "pin_memory", "persistent_workers", "ffcv_args")


@dataclass
class StrategyRun:
    """Trains a strategy over a stream; see `avalanche_dgm.lightning.run_on_trainer`.

    It calls the strategy's own ``train`` and ``eval``. Only ``_train_exp`` and ``eval_epoch`` are
    replaced, temporarily, by the Trainer's loops.
    """

    strategy: Any
    train: list[Any]
    test: Any
    eval_streams: Sequence[Any] | None
    folder: Path | None
    resume: bool
    check_ranks: bool
    options: dict[str, Any]

    def run(self, trainer: pl.Trainer) -> list[dict[str, Any]]:
        """Learns the rest of the stream, unless a time limit or a signal stops it."""
        self.trainer, strategy, n = trainer, self.strategy, len(self.train)
        self.files = RunFolder(self.folder, trainer) if self.folder is not None else None
        self.results: list[dict[str, Any]] = []
        strategy.device = trainer.strategy.root_device
        internals.skip_distributed_check(strategy)
        logging: AbstractContextManager[None] = nullcontext()
        if smoke_batches(trainer):
            logging = internals.replaced(strategy.evaluator, loggers=[])
        with lock_folder(trainer, self.folder), logging:
            if not self._load():
                sources = [plugin.method.random for plugin in find_plugins(strategy)]
                broadcast_state(trainer, strategy.model, *sources)
            try:
                for i in range(len(self.results), n):
                    self._learn(i)
            except STOPS as stop:
                learned = len(self.results)
                report_stop(trainer, stop, learned=learned, n=n, folder=self.folder)
        return self.results

    def _learn(self, i: int) -> None:
        trainer, strategy = self.trainer, self.strategy
        self._name = f"experience {i + 1}/{len(self.train)}"
        reset_callbacks(trainer)
        with self._installed():
            self._training = True
            strategy.train(self.train[i], self.eval_streams, **self.options)
            self._training = False
            if self.check_ranks:
                # Before the test, at which a Trainer broadcasts the weights of rank 0.
                for module in (strategy.model, *(p.method for p in find_plugins(strategy))):
                    check_identical(trainer, module, when=f"after experience {i + 1}")
            if self.test is not None and trainer.limit_test_batches:
                options = {name: v for name, v in self.options.items() if name in _EVAL_OPTIONS}
                strategy.eval(self.test, **options)
        self.results.append(dict(strategy.evaluator.get_last_metrics()))
        numbers = {
            name: float(value)
            for name, value in self.results[-1].items()
            if isinstance(value, (int, float))
        }
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)
        self._save()

    # The Trainer's loops in the strategy

    @contextmanager
    def _installed(self) -> Iterator[None]:
        strategy, trainer = self.strategy, self.trainer
        self._batches = StrategyBatches(trainer, strategy)
        self._module = StrategyModule(strategy, self._batches)
        ddp = isinstance(trainer.strategy, pl.strategies.DDPStrategy)
        heads = any(isinstance(part, MultiTaskModule) for part in strategy.model.modules())
        with ExitStack() as stack:
            for plugin in find_plugins(strategy):
                adapted = internals.replaced(
                    plugin,
                    run_phase=partial(run_phase_on, trainer, plugin.method),
                    draw=partial(self._batches.sample_replay, plugin),
                )
                stack.enter_context(adapted)
            stack.enter_context(
                internals.with_loops(strategy, train=self._train_exp, evaluate=self._eval_epoch)
            )
            stack.enter_context(DistributedEvaluation(self._batches).installed())
            stack.enter_context(internals.full_batch_loaders())
            if ddp and heads and internals.finds_unused_parameters(trainer) is None:
                # Heads of other tasks get no gradient from a batch.
                stack.enter_context(internals.find_unused_parameters(trainer))
            yield

    def _train_exp(self, experience: Any, streams: Any = None, **options: Any) -> None:
        strategy = self.strategy
        if strategy.train_epochs < 1 or _length(strategy.dataloader) == 0:
            internals.train_with_own_loop(strategy, experience, streams, **options)
            return
        stage = StrategyStage(
            self._name, self._batches, check_ranks=self.check_ranks, options=options
        )
        self._module.run(self.trainer, stage)

    def _eval_epoch(self, **options: Any) -> None:
        strategy = self.strategy
        if self._training or _length(strategy.dataloader) == 0:
            # A Trainer's loops cannot be nested, so every process evaluates all batches.
            with self.trainer.precision_plugin.val_step_context():
                type(strategy).eval_epoch(strategy, **options)
        else:
            self._module.test(self.trainer, **options)

    # Checkpoints

    def _save(self) -> None:
        if self.files is not None:
            content = {
                "strategy": bytes_of(self.strategy),
                "results": self.results,
                "experiences": len(self.train),
                "steps": self.trainer.global_step,
            }
            self.files.write_alone((len(self.results), 0, 0), content)

    def _load(self) -> bool:
        """Loads the latest checkpoint; returns whether there was one."""
        if self.files is None:
            return False
        latest = self.files.latest(resume=self.resume)
        if latest is None:
            store_fingerprint(self.strategy, self.train)
            return False
        content = self.files.read(latest)
        saved, device = BytesIO(content["strategy"]), self.strategy.device
        maybe_load_checkpoint(self.strategy, saved, map_location=device, stream=self.train)
        if content["experiences"] != len(self.train):
            raise ConfigError(
                f"The run in {self.folder} is over {content['experiences']} experiences, not"
                f" {len(self.train)}. Resume with the same stream, or name another folder."
            )
        internals.set_steps(self.trainer, content["steps"])
        self.results = list(content["results"])
        return True


def bytes_of(strategy: Any) -> bytes:
    """A strategy's checkpoint as bytes."""
    buffer = BytesIO()
    save_checkpoint(strategy, buffer)
    return buffer.getvalue()


def _length(loader: Any) -> int:
    try:
        return len(loader)
    except TypeError as error:
        raise ConfigError(
            f"The strategy's data loader, a {type(loader).__name__}, has no length, which a Trainer"
            " needs. Give it a __len__ that returns the number of batches."
        ) from error

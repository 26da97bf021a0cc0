"""Checkpoints of a stream, from which a run resumes after it was killed at any point.

The full state is saved after each experience; within one, after each stage and every
``save_every`` steps in the middle of a stage. To resume, the experience starts again from its
beginning: what a method computes between stages is repeated, with the same result at little cost,
and the training of a finished stage is replaced by its saved outcome.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dill
import torch

from avalanche_dgm.errors import CheckpointError, ConfigError
from avalanche_dgm.files import final_name, replacing
from avalanche_dgm.lightning.callbacks import StreamCallback, experience_callbacks
from avalanche_dgm.lightning.evaluation import StrategyView
from avalanche_dgm.lightning.module import MethodModule
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks
from avalanche_dgm.lightning.staged import StagedModule
from avalanche_dgm.lightning.stages import PhaseStage, Stage
from avalanche_dgm.methods import Method
from avalanche_dgm.plugins.fingerprint import check_same
from avalanche_dgm.randomness import global_state, set_global_state

#: Experience, stage and step within the stage, of what comes next.
Position = tuple[int, int, int]
#: Settings that checkpoints hold from before there were fingerprints.
_OLD = {"method", "epochs", "batch_size", "shuffle", "experiences", "processes"}
_NAME = re.compile(r"(\d+)-(\d+)-(\d+)\.rank(\d+)\.pt")


class StreamCheckpointer:
    """Saves and restores one process's state of a run; does nothing without a folder.

    Args:
        folder: The checkpoint folder, or ``None``.
        trainer: The Trainer, in each of its processes.
        method: The method that learns.
        view: The strategy that Avalanche's metrics see, or ``None`` without metrics.
        save_every: Optimiser steps between two saves in the middle of a stage.
        settings: Settings that must be equal when a run resumes.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        trainer: pl.Trainer,
        method: Method,
        view: StrategyView | None,
        save_every: int,
        settings: Mapping[str, Any],
    ) -> None:
        self.folder, self._trainer, self._method, self._view = folder, trainer, method, view
        self._ranks, self._save_every = Ranks.of(trainer), save_every
        self._settings = dict(settings)
        self._target: Position = (0, 0, 0)
        self._experience, self._stage, self._steps = 0, 0, 0
        self._next_save = save_every
        self._mid_stage: dict[str, Any] | None = None
        self._mid_stage_files: list[Path] = []

    # The run as a whole

    def load(self, *, resume: bool) -> dict[str, Any] | None:
        """Loads the latest checkpoint.

        Args:
            resume: Whether to resume; otherwise the folder must not hold a run.

        Returns:
            The ``run`` that `save_experience` saved last, or ``None`` to start from the beginning.

        Raises:
            ConfigError: The folder holds a run and ``resume`` is off.
            CheckpointError: It holds another run, or a file is damaged.
        """
        if self.folder is None:
            return None
        found = self._positions()
        latest = self._common_position(max(found, default=(-1, 0, 0)))
        if latest[0] < 0:
            return None
        if not resume:
            raise ConfigError(
                f"The folder {self.folder} holds an earlier run. Pass resume=True to continue it,"
                " or name another folder."
            )
        self._target = latest
        content = self._read((latest[0], 0, 0))
        saved = content["settings"]
        if len(saved) < len(self._settings) and saved.keys() <= _OLD:
            warnings.warn(
                f"The run in {self.folder} was saved by an earlier version: whether network,"
                " hyper-parameters and data are the same is not known.",
                stacklevel=2,
            )
            check_same(saved, {n: self._settings.get(n) for n in saved}, where=str(self.folder))
        else:
            check_same(saved, self._settings, where=f"The run in {self.folder}")
        self._restore(content)
        return dict(content["run"])

    def save_experience(self, done: int, run: Mapping[str, Any]) -> None:
        """Saves the full state after an experience, or before the first one.

        Args:
            done: Number of experiences learned.
            run: Further state, which `load` returns.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        position = (done, 0, 0)
        self._write(position, {**self._common(), "run": dict(run), "settings": self._settings})
        # Older files may go once every process has written.
        self._trainer.strategy.barrier("experience saved")
        for path in list(self.folder.iterdir()):
            match = _NAME.fullmatch(final_name(path))
            if match and int(match[4]) == self._ranks.rank and path != self._path(position):
                path.unlink(missing_ok=True)
        self._mid_stage_files = []

    # One experience

    def begin_experience(self, experience: int) -> None:
        """Resets the count of stages."""
        self._experience, self._stage = experience, 0

    def run_stage(self, module: MethodModule, stage: Stage) -> None:
        """Trains what is left of a stage; loads its outcome if it had finished.

        Args:
            module: The module that runs it.
            stage: The stage, not started.
        """
        here = (self._experience, self._stage)
        self._stage += 1
        after = (here[0], here[1] + 1, 0)
        if self.folder is not None and here < self._target[:2]:
            self._skip(module, stage, self._read(after))
            return
        self._steps = 0
        if self.folder is not None and here == self._target[:2] and self._target[2]:
            self._mid_stage = self._read(self._target)
            self._steps = self._mid_stage["steps"]
            stage.module.load_state_dict(self._mid_stage["module"])
            stage.set_state(self._mid_stage["stage"])
            self._set_counters(self._mid_stage["counters"])
        module.listener, self._next_save = self, self._steps + self._save_every
        try:
            if isinstance(stage, PhaseStage):
                seconds = module.run_phase(self._trainer, stage)
                self._method.stats.add_phase(stage.phase.name, seconds)
            else:
                module.run(self._trainer, stage)
        finally:
            module.listener, self._mid_stage = None, None
        if self.folder is not None:
            content = {**self._common(), "module": stage.module.state_dict()}
            if not isinstance(stage, PhaseStage):
                content["optimizer"] = module.learning_optimizer(stage.module).state_dict()
                content["stage"] = stage.state()
            self._write(after, content)

    def _skip(self, module: MethodModule, stage: Stage, content: Mapping[str, Any]) -> None:
        stage.module.load_state_dict(content["module"])
        if isinstance(stage, PhaseStage):
            stage.phase.finish()
        else:
            stage.set_state(content["stage"])
            module.learning_optimizer(stage.module).load_state_dict(content["optimizer"])
        self._restore(content)

    def on_batch_end(self, module: StagedModule, *, at_once: bool) -> None:
        """Saves a mid-stage checkpoint every ``save_every`` steps, or at once."""
        self._steps += 1
        # After an epoch's last batch there is nothing left of the epoch to resume.
        if (at_once or self._steps >= self._next_save) and not self._trainer.is_last_batch:
            self._next_save = self._steps + self._save_every
            # The Trainer counts the batch only after this hook.
            self._save(module, uncounted=1)

    def save(self, module: StagedModule) -> None:
        """Saves a mid-stage checkpoint between two epochs, after a fit."""
        self._save(module, uncounted=0)

    def _save(self, module: StagedModule, *, uncounted: int) -> None:
        stage, trainer = module.stage, self._trainer
        if self.folder is None or stage is None:
            return
        position = (self._experience, self._stage - 1, self._steps)
        schedules = trainer.lr_scheduler_configs
        content = {
            **self._common(),
            "steps": self._steps,
            "module": stage.module.state_dict(),
            "stage": stage.state(),
            "optimizer": trainer.optimizers[0].state_dict(),
            "schedules": [config.scheduler.state_dict() for config in schedules],
            "precision": trainer.precision_plugin.state_dict(),
        }
        content["counters"]["logged"] += uncounted
        self._write(position, content)
        self._mid_stage_files.append(self._path(position))
        # Keeps the last but one: another process may be one save behind.
        for path in self._mid_stage_files[:-2]:
            path.unlink(missing_ok=True)
        del self._mid_stage_files[:-2]

    def restore(self, module: StagedModule) -> None:
        """Restores a mid-stage checkpoint, once the Trainer has set up its optimiser."""
        content, trainer = self._mid_stage, self._trainer
        if content is None:
            return
        trainer.optimizers[0].load_state_dict(content["optimizer"])
        for config, state in zip(trainer.lr_scheduler_configs, content["schedules"], strict=True):
            config.scheduler.load_state_dict(state)
        trainer.precision_plugin.load_state_dict(content["precision"])
        self._restore(content)
        self._mid_stage = None

    # What is saved

    def _common(self) -> dict[str, Any]:
        loop: Any = self._trainer.fit_loop.epoch_loop
        callbacks = {c.state_key: c.state_dict() for c in self._callbacks()}
        return {
            "numbers": self._method.random.get_state(),
            "stats": self._method.stats.state(),
            "random": global_state(),
            "callbacks": callbacks,
            "view": dill.dumps(self._view.state()) if self._view is not None else None,
            "counters": {
                "steps": loop.global_step,
                "logged": loop._batches_that_stepped,
            },
        }

    def _restore(self, content: Mapping[str, Any]) -> None:
        method = self._method
        method.random.set_state(content["numbers"])
        method.stats.set_state(content["stats"], method.rng.device)
        set_global_state(content["random"])
        for callback in self._callbacks():
            if callback.state_key in content["callbacks"]:
                callback.load_state_dict(content["callbacks"][callback.state_key])
        if self._view is not None and content["view"] is not None:
            self._view.set_state(dill.loads(content["view"]))
        self._set_counters(content["counters"])

    def _callbacks(self) -> list[Any]:
        """The callbacks whose state is saved."""
        made: Any = self._trainer
        own = [c for c in made.callbacks if isinstance(c, StreamCallback)]
        return [*experience_callbacks(self._trainer), *own]

    def _set_counters(self, counters: Mapping[str, int]) -> None:
        loop: Any = self._trainer.fit_loop.epoch_loop
        total = loop.automatic_optimization.optim_progress.optimizer.step.total
        total.ready = total.completed = counters["steps"]
        loop._batches_that_stepped = counters["logged"]

    # Files

    def _path(self, position: Position) -> Path:
        experience, stage, steps = position
        name = f"{experience:04d}-{stage:03d}-{steps:09d}.rank{self._ranks.rank}.pt"
        return (self.folder or Path()) / name

    def _positions(self) -> list[Position]:
        found = []
        for path in self.folder.glob("*.pt") if self.folder is not None else []:
            match = _NAME.fullmatch(path.name)
            if match and int(match[4]) == self._ranks.rank:
                found.append((int(match[1]), int(match[2]), int(match[3])))
        return found

    def _common_position(self, mine: Position) -> Position:
        """The latest position that every process has reached."""
        if not self._ranks.is_distributed:
            return mine
        strategy = self._trainer.strategy
        everyone = strategy.all_gather(torch.tensor(mine, device=strategy.root_device))
        first, second, third = min(tuple(row) for row in everyone.tolist())
        return first, second, third

    def _write(self, position: Position, content: Mapping[str, Any]) -> None:
        with replacing(self._path(position)) as file:
            torch.save(dict(content), file)

    def _read(self, position: Position) -> dict[str, Any]:
        path = self._path(position)
        try:
            # Random states stay on the CPU; the rest is copied to the device later.
            content = torch.load(path, map_location="cpu", weights_only=False)
        except Exception as error:
            raise CheckpointError(
                f"The checkpoint {path} cannot be read: {error!r}. Remove the folder to start from"
                " the first experience."
            ) from error
        return dict(content)

"""Checkpoints of a stream, from which a run resumes after an interruption at any point.

The full state is saved after each experience; within one, after each stage and every
``save_every`` steps of a stage. A resumed run restarts the interrupted experience: computations
between stages are repeated, with the same results; finished stages are loaded, not trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dill

from avalanche_dgm.lightning import internals
from avalanche_dgm.lightning.callbacks import (
    StreamCallback,
    experience_callbacks,
    stream_callbacks,
)
from avalanche_dgm.lightning.module import MethodModule
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.run_folder import Position, RunFolder
from avalanche_dgm.lightning.stages import PhaseStage, Stage
from avalanche_dgm.plugins.fingerprint import check_same
from avalanche_dgm.randomness import global_state, set_global_state

if TYPE_CHECKING:
    from avalanche_dgm.lightning.stream_run import StreamRun


class StreamCheckpointer(StreamCallback):
    """A callback that saves and restores one process's state of a run.

    Args:
        run: The run over the stream.
        folder: Its checkpoint folder.
        settings: Settings that must be equal when it resumes.
    """

    def __init__(self, run: StreamRun, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = RunFolder(folder, run.trainer)
        self._trainer, self._method, self._view = run.trainer, run.method, run.view
        self._save_every, self._settings = run.save_every, dict(settings)
        self._target: Position = (0, 0, 0)
        self._experience, self._stage, self._steps = 0, 0, 0
        self._next_save = run.save_every
        self._mid_stage: dict[str, Any] | None = None
        self._mid_stage_positions: list[Position] = []

    # The run as a whole

    def load(self, *, resume: bool) -> dict[str, Any] | None:
        """Loads the latest checkpoint.

        Returns:
            The ``run`` that `save_experience` saved last, or ``None`` to start from the beginning.

        Raises:
            ConfigError: The folder holds a run and ``resume`` is off.
            CheckpointError: The folder holds another run, or a file is damaged.
        """
        latest = self.folder.latest(resume=resume)
        if latest is None:
            return None
        self._target = latest
        content = self.folder.read((latest[0], 0, 0))
        check_same(content["settings"], self._settings, where=f"The run in {self.folder.path}")
        self._restore(content)
        return dict(content["run"])

    def save_experience(self, done: int, run: Mapping[str, Any]) -> None:
        """Saves the full state after ``done`` experiences; `load` returns ``run``."""
        content = {**self._common(), "run": dict(run), "settings": self._settings}
        self.folder.write_alone((done, 0, 0), content)
        self._mid_stage_positions = []

    # One experience

    def begin_experience(self, experience: int) -> None:
        """Resets the count of stages."""
        self._experience, self._stage = experience, 0

    def skip(self, module: MethodModule, stage: Stage) -> bool:
        """Loads the outcome of a stage that was finished before the interruption.

        Of an interrupted stage it loads the position; `on_train_start` loads the rest.

        Returns:
            Whether the stage was finished.
        """
        here = (self._experience, self._stage)
        self._stage, self._steps, self._mid_stage = self._stage + 1, 0, None
        if here < self._target[:2]:
            content = self.folder.read((here[0], here[1] + 1, 0))
            stage.module.load_state_dict(content["module"])
            if not isinstance(stage, PhaseStage):
                stage.set_state(content["stage"])
                module.learning_optimizer(stage.module).load_state_dict(content["optimizer"])
            stage.finish()
            self._restore(content)
            return True
        if here == self._target[:2] and self._target[2]:
            content = self._mid_stage = self.folder.read(self._target)
            self._steps = content["steps"]
            stage.set_state(content["stage"])
            internals.set_steps(self._trainer, content["counters"]["steps"])
        self._next_save = self._steps + self._save_every
        return False

    def save_stage(self, stage: Stage) -> None:
        """Saves the outcome of a stage."""
        content = {**self._common(), "module": stage.module.state_dict()}
        if not isinstance(stage, PhaseStage):
            content["optimizer"] = stage.optimizer.state_dict()
            content["stage"] = stage.state()
        self.folder.write((self._experience, self._stage, 0), content)

    # Within a stage

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores an interrupted stage, once the Trainer has set up its optimiser."""
        content = self._mid_stage
        if content is None:
            return
        # Here, so that an error rolls back to the weights from before the stage.
        stage: Any = pl_module.stage
        stage.module.load_state_dict(content["module"])
        stage.optimizer.load_state_dict(content["optimizer"])
        if stage.schedule is not None:
            stage.schedule.load_state_dict(content["schedules"][0])
        trainer.precision_plugin.load_state_dict(content["precision"])
        self._restore(content)
        self._mid_stage = None

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, *, stops: bool) -> None:
        """Saves every ``save_every`` steps, and when the stream stops."""
        stage: Any = module.stage
        if stage.batch:  # 0 between two epochs, where the step was already counted.
            self._steps += 1
        # After an epoch's last batch no rest of the epoch is left to resume.
        due = self._steps >= self._next_save and not trainer.is_last_batch
        if not (stops or due):
            return
        self._next_save = self._steps + self._save_every
        position = (self._experience, self._stage - 1, self._steps)
        content = {
            **self._common(),
            "steps": self._steps,
            "module": stage.module.state_dict(),
            "stage": stage.state(),
            "optimizer": stage.optimizer.state_dict(),
            "schedules": [] if stage.schedule is None else [stage.schedule.state_dict()],
            "precision": trainer.precision_plugin.state_dict(),
        }
        self.folder.write(position, content)
        self._mid_stage_positions.append(position)
        # Keeps the last two: another process may be one save behind.
        for old in self._mid_stage_positions[:-2]:
            self.folder.remove(old)
        del self._mid_stage_positions[:-2]

    # Contents of checkpoints

    def _common(self) -> dict[str, Any]:
        return {
            "numbers": self._method.random.get_state(),
            "stats": self._method.stats.state(),
            "random": global_state(),
            "callbacks": {c.state_key: c.state_dict() for c in self._callbacks()},
            "view": dill.dumps(self._view.state()),
            "counters": {"steps": self._trainer.global_step},
        }

    def _restore(self, content: Mapping[str, Any]) -> None:
        method = self._method
        method.random.set_state(content["numbers"])
        method.stats.set_state(content["stats"], method.rng.device)
        set_global_state(content["random"])
        for callback in self._callbacks():
            if callback.state_key in content["callbacks"]:
                callback.load_state_dict(content["callbacks"][callback.state_key])
        self._view.set_state(dill.loads(content["view"]))
        internals.set_steps(self._trainer, content["counters"]["steps"])

    def _callbacks(self) -> list[Any]:
        """The callbacks whose state is saved."""
        return [*experience_callbacks(self._trainer), *stream_callbacks(self._trainer)]

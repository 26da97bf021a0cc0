"""What is saved after each experience of a strategy's run under a Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.files import final_name
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.plugins.checkpoints import maybe_load_checkpoint, save_checkpoint
from avalanche_dgm.plugins.fingerprint import store_fingerprint

_FILE = "strategy.ckpt"
#: Where a strategy carries what belongs to the run while it is saved.
_NOTES = "_notes_of_run_on_trainer"


class RunCheckpoint:
    """One file: the strategy with all its parts, random numbers, results and counted steps.

    It is replaced in one step after each experience, so that whatever moment a run is killed at
    leaves a whole one.

    Args:
        folder: Where it is, or ``None`` to save nothing.
        n_experiences: Length of the stream.
        resume: Whether to go on with what is there.

    Raises:
        ConfigError: The folder holds a run and ``resume`` is off, or there is no folder to resume.
    """

    def __init__(self, folder: str | Path | None, *, n_experiences: int, resume: bool) -> None:
        self.path = Path(folder) / _FILE if folder is not None else None
        self._n = n_experiences
        if resume and self.path is None:
            raise ConfigError("resume=True needs the checkpoint_dir of the run that shall go on.")
        if not resume and self.path is not None and self.path.exists():
            raise ConfigError(
                f"The folder {folder} holds an earlier run. Pass resume=True to go on with it, or"
                " name another folder."
            )

    def save(self, trainer: pl.Trainer, strategy: Any, results: list[dict[str, Any]]) -> None:
        """Saves; in the first process, as all are alike, while the others wait.

        Args:
            trainer: The Trainer, in each of its processes.
            strategy: The strategy, between two experiences.
            results: Its metrics after each experience so far.

        Raises:
            CheckpointError: Something that the strategy holds cannot be pickled.
        """
        if self.path is None:
            return
        if trainer.is_global_zero:
            loop: Any = trainer.fit_loop.epoch_loop
            # With the strategy: a second file could not be replaced in the same moment.
            strategy.__dict__[_NOTES] = {
                "results": results,
                "experiences": self._n,
                "steps": loop.global_step,
                "logged": loop._batches_that_stepped,
            }
            try:
                save_checkpoint(strategy, self.path)
            finally:
                del strategy.__dict__[_NOTES]
        trainer.strategy.barrier("strategy saved")

    def load(
        self, trainer: pl.Trainer, strategy: Any, stream: Sequence[Any]
    ) -> list[dict[str, Any]] | None:
        """Brings a strategy to where it was saved, in every process.

        Args:
            trainer: The Trainer, in each of its processes.
            strategy: A strategy made as for a first run.
            stream: The training experiences.

        Returns:
            The metrics after each experience so far, or ``None`` if nothing is saved.

        Raises:
            CheckpointError: The file is damaged, or of a strategy that was made otherwise, or of
                another stream.
            ConfigError: It is of a run over another stream.
        """
        content: bytes | None = None
        if self.path is not None:
            if trainer.is_global_zero and self.path.exists():
                content = self.path.read_bytes()
                # What a run leaves that is killed while it saves.
                for path in list(self.path.parent.iterdir()):
                    if path != self.path and final_name(path) == self.path.name:
                        path.unlink()
            content = trainer.strategy.broadcast(content)
        if content is None:
            if self.path is not None:
                store_fingerprint(strategy, stream)
            return None
        kept = {"map_location": strategy.device, "stream": stream}
        maybe_load_checkpoint(strategy, BytesIO(content), **kept)
        notes = strategy.__dict__.pop(_NOTES, None)
        if notes is None or notes["experiences"] != self._n:
            raise ConfigError(
                f"The checkpoint {self.path} is not of a run over {self._n} experiences. Go on with"
                " the same stream, or name another folder."
            )
        loop: Any = trainer.fit_loop.epoch_loop
        total = loop.automatic_optimization.optim_progress.optimizer.step.total
        total.ready = total.completed = notes["steps"]
        loop._batches_that_stepped = notes["logged"]
        return list(notes["results"])

"""The log and quality measurements of a run's GAN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from avalanche_dgm.experiments.methods import has_gan, method_of
from avalanche_dgm.experiments.run_spec import RunSpec
from avalanche_dgm.metrics import GeneratorLog, GeneratorQuality
from avalanche_dgm.metrics.generator_quality import memory_of
from avalanche_dgm.plugins.experiences import load, seeded

MEASURED = ("fid", "generated_accuracy")
"""Measurements of a generator's quality in a run's results: fields of `Step`."""


class GeneratorRecorder:
    """Logs and measures the generator of a run on either backend; see `GeneratorLog` for the files.

    It does nothing if the run's method has no GAN, and does not affect training.

    Args:
        spec: The run; ``quality`` in its config says whether samples are measured.
        folder: The run folder, or ``None`` to write nothing.
    """

    # Not a dataclass: Lightning would copy its fields to spawned processes.
    def __init__(self, spec: RunSpec, folder: Path | None) -> None:
        self.spec = spec
        measured = spec.config.quality
        self.active = has_gan(method_of(spec.config)) and (folder is not None or measured)
        self._log = GeneratorLog(folder) if self.active and folder is not None else None
        # Created on first use, after a checkpoint was loaded.
        self._quality: GeneratorQuality | None = None

    def watch(self, method: Any) -> None:
        """Starts to log the masks of the current experience, unless it has started already."""
        if self._log is not None and not self._log.watching:
            self._log.attach(method)
            self._log.watch()

    def state(self) -> dict[str, Any]:
        """The log of masks within an experience, for `set_state`."""
        return {"seen": None if self._log is None else self._log.state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state within an experience."""
        if self._log is not None:
            self._log.set_state(state["seen"])

    def note(self, method: Any, experience: int) -> dict[str, float]:
        """Logs the generator after an experience.

        Args:
            method: The method, or its plugin or LightningModule.
            experience: Index of the last learned experience, from 0.

        Returns:
            The measurements in ``MEASURED``; empty without ``quality``.
        """
        if not self.active:
            return {}
        if self._quality is None and self.spec.config.quality:
            self._quality = self._compared(memory_of(method).classes.rows.device)
        if self._log is not None:
            self._log.attach(method)
            self._log.quality = self._quality
            quality = self._log.note(experience)
        else:
            quality = None if self._quality is None else self._quality.measure(method)
        return {} if quality is None else {name: getattr(quality, name) for name in MEASURED}

    def _compared(self, device: torch.device) -> GeneratorQuality:
        """Trains the reference classifier on all training images of the stream."""
        # Data loaders draw from the global generator, even without shuffling.
        with seeded(0):
            parts = [
                load(experience, key=f"#{i}", device=device)
                for i, experience in enumerate(self.spec.benchmark.train_stream)
            ]
        images = torch.cat([part.images for part in parts])
        labels = torch.cat([part.labels for part in parts])
        return GeneratorQuality(images, labels, seed=self.spec.config.seed)

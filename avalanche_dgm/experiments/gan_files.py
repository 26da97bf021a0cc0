"""What a run of a memory that is a generative adversarial network leaves beside its results."""

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
"""What of a generator's quality becomes a part of a run's results: fields of `Step`."""


class GeneratorRecorder:
    """Looks at the generator of one run, whatever trains it; see `GeneratorLog` for the files.

    Nothing happens if the run's method has no generator that a discriminator trained. What is
    learned is the same with and without it.

    Args:
        spec: What is learned, with the settings: ``quality`` says whether samples are measured.
        folder: The run folder, or ``None`` to write nothing.
    """

    # Not a dataclass: Lightning would copy its fields to spawned processes.
    def __init__(self, spec: RunSpec, folder: Path | None) -> None:
        self.spec = spec
        measured = spec.config.quality
        self.active = has_gan(method_of(spec.config)) and (folder is not None or measured)
        self._log = GeneratorLog(folder) if self.active and folder is not None else None
        # Made when it is asked for: by then a checkpoint was loaded.
        self._quality: GeneratorQuality | None = None

    def watch(self, method: Any) -> None:
        """Begins to look at the masks of an experience that has begun, unless it does already."""
        if self._log is not None and not self._log.watching:
            self._log.attach(method)
            self._log.watch()

    def state(self) -> dict[str, Any]:
        """What was seen of the masks in an experience that is not over."""
        return {"seen": None if self._log is None else self._log.state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state within an experience."""
        if self._log is not None:
            self._log.set_state(state["seen"])

    def note(self, method: Any, experience: int) -> dict[str, float]:
        """Writes down what the generator has become after an experience.

        Args:
            method: The method itself, or its plugin or LightningModule.
            experience: Position of what was learned last, from 0.

        Returns:
            What was measured of its samples by the names in ``MEASURED``; nothing if the settings
            do not ask for that.
        """
        if not self.active:
            return {}
        if self._quality is None and self.spec.config.quality:
            self._quality = self._compared(memory_of(method).classes.rows.device)
        if self._log is not None:
            self._log.attach(method)
            self._log.quality = self._quality
            found = self._log.note(experience)
        else:
            found = None if self._quality is None else self._quality.measure(method)
        return {} if found is None else {name: getattr(found, name) for name in MEASURED}

    def _compared(self, device: torch.device) -> GeneratorQuality:
        """Trains the reference on the stream's training images, those to come among them."""
        # A data loader takes a number of the global generator, even if it does not shuffle.
        with seeded(0):
            parts = [
                load(experience, key=f"#{i}", device=device)
                for i, experience in enumerate(self.spec.benchmark.train_stream)
            ]
        images = torch.cat([part.images for part in parts])
        labels = torch.cat([part.labels for part in parts])
        return GeneratorQuality(images, labels, seed=self.spec.config.seed)

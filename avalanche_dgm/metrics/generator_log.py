"""Files with samples and statistics of a generator after each experience."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm import files
from avalanche_dgm.checks import whole
from avalanche_dgm.errors import UnknownTaskError
from avalanche_dgm.generators.gan import GAN
from avalanche_dgm.generators.masked_gan import MaskedGAN
from avalanche_dgm.metrics.cost import memory_bytes_of
from avalanche_dgm.metrics.generator_quality import (
    GeneratorQuality,
    Quality,
    fixed_samples,
    memory_of,
)
from avalanche_dgm.metrics.mask_trace import MaskTrace
from avalanche_dgm.modules import size_in_bytes

#: Patterns of the files of a log.
FILES = ("usage.csv", "masks.csv", "samples.csv", "samples-*.png", "sizes.csv", "quality.csv")

_USAGE = ("layer", "width", "reserved", "reused", "free")
_MASKS = ("layer", "step", "scale", "width", "active", "soft_mean", "soft_std")
_SIZES = ("classes", "generator_bytes", "memory_bytes", "parameters", "capacity_ratio")


class GeneratorLog:
    """Writes samples and statistics of a method's generator; call `note` after each experience.

    Rows of the CSV files begin with the experience, counted from 0. An experience that is logged
    again, for example by a resumed run, replaces its rows and those of later experiences.

    ``samples-000.png`` and so on
        Samples of every class, a row each, in the order of learning, with the same noise in every
        file. For images only.
    ``samples.csv``
        Task, class and a checksum of each of these rows, equal if the samples are bitwise equal.
    ``sizes.csv``
        Bytes of the generator and of the memory, parameters of the generator, and its width
        relative to the initial width.
    ``usage.csv``
        For dynamic memory: the number of entries of each mask that the experience was the first to
        use (reserved), that it shares with earlier ones (reused), and that are unused (free).
    ``masks.csv``
        For dynamic memory, if `watch` was called: the masks during training, see `MaskTrace`.
    ``quality.csv``
        With ``quality``: Frechet distance and accuracy of generated samples, by class and overall.

    In Avalanche, use `avalanche_dgm.GeneratorObserver`; with a Trainer::

        log = GeneratorLog("runs/dgm", module)
        fit_stream(module, benchmark, after_experience=lambda result: log.note())

    and, for the masks, a callback whose ``on_train_start`` calls `watch` unless ``log.watching``.
    The method's random state is not used, so training is the same without a log.

    Args:
        folder: Folder of the files; created if missing.
        method: A method with a GAN, or its plugin or LightningModule; ``None`` if `attach` is
            called later.
        quality: Measures samples, or ``None``.
        n_samples: Samples per class in an image, at least 1.
        seed: Seed of the samples' noise.

    Raises:
        ConfigError: The method has no GAN, or ``n_samples`` is below 1.
    """

    def __init__(
        self,
        folder: str | Path,
        method: Any = None,
        *,
        quality: GeneratorQuality | None = None,
        n_samples: int = 10,
        seed: int = 0,
    ) -> None:
        whole("n_samples", n_samples)
        self.folder = Path(folder)
        self.quality, self.n_samples, self.seed = quality, n_samples, seed
        self.method: Any = None
        if method is not None:
            self.attach(method)
        self._trace: MaskTrace | None = None
        self._resumed: dict[str, Any] | None = None

    def attach(self, method: Any) -> None:
        """Sets the method; see the class."""
        memory_of(method)
        self.method = getattr(method, "method", method)

    @property
    def memory(self) -> GAN:
        """The method's GAN."""
        return memory_of(self.method)

    def watch(self) -> None:
        """Starts to record the masks, if the method has any.

        Call it after the method has started an experience, before training.
        """
        self.unwatch()
        memory = self.memory
        if isinstance(memory, MaskedGAN) and memory.shape is not None:
            self._trace = MaskTrace(memory.network)
            if self._resumed is not None:
                self._trace.set_state(self._resumed)

    @property
    def watching(self) -> bool:
        """Whether masks are being recorded."""
        return self._trace is not None

    def state(self) -> dict[str, Any] | None:
        """The recorded masks of the current experience; ``None`` if they are not recorded."""
        return None if self._trace is None else self._trace.state()

    def set_state(self, state: dict[str, Any] | None) -> None:
        """Restores `state` within an experience, before or after `watch`."""
        self._resumed = state
        if self._trace is not None and state is not None:
            self._trace.set_state(state)

    def unwatch(self) -> None:
        """Stops recording the masks, and drops the records."""
        if self._trace is not None:
            self._trace.stop()
            self._trace = None

    def note(self, experience: int | None = None) -> Quality | None:
        """Writes the files for the last learned experience; synchronises with the device.

        Args:
            experience: Index of the experience; ``None`` for the memory's own count.

        Returns:
            The measured quality; ``None`` without ``quality``.

        Raises:
            UnknownTaskError: Nothing was learned yet.
        """
        memory = self.memory
        if not memory.learned:
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        number = memory.experiences - 1 if experience is None else experience
        self.folder.mkdir(parents=True, exist_ok=True)
        samples = [
            fixed_samples(memory, row, self.n_samples, seed=self.seed)
            for row in range(memory.learned)
        ]
        self._write("samples.csv", number, ("task", "class", "sha256"), self._checksums(samples))
        if len(memory.scaler.shape) == 3:
            self._draw(samples, self.folder / f"samples-{number:03d}.png")
        self._write("sizes.csv", number, _SIZES, [self._sizes()])
        if isinstance(memory, MaskedGAN):
            last = memory.network.n_tasks - 1
            used = [(name, mask.usage(last)) for name, mask in memory.network.named_masks()]
            rows = [(name, *(use[column] for column in _USAGE[1:])) for name, use in used]
            self._write("usage.csv", number, _USAGE, rows)
        self._resumed = None
        if self._trace is not None:
            records, self._trace = self._trace.stop(), None
            self._write("masks.csv", number, _MASKS, [record.values() for record in records])
        if self.quality is None:
            return None
        quality = self.quality.measure(self.method)
        lines: list[tuple[Any, ...]] = [("all", quality.fid, quality.generated_accuracy)]
        for c, fid in quality.fid_per_class.items():
            lines.append((c, fid, quality.accuracy_per_class[c]))
        self._write("quality.csv", number, ("class", "fid", "generated_accuracy"), lines)
        return quality

    def _checksums(self, samples: Sequence[Tensor]) -> Iterable[tuple[int, int, str]]:
        for (_, task, label), row in zip(self.memory.classes.rows.tolist(), samples, strict=False):
            content = row.cpu().contiguous().numpy().tobytes()
            yield task, label, hashlib.sha256(content).hexdigest()

    def _draw(self, samples: Sequence[Tensor], path: Path) -> None:
        from torchvision.utils import save_image

        scaler = self.memory.scaler
        images = torch.cat(list(samples)).cpu()
        # All files use the scaler's range, so that intensities can be compared.
        low, high = (images.new_tensor(v).view(1, -1, 1, 1) for v in (scaler.low, scaler.high))
        images = ((images - low) / (high - low)).clamp(0, 1)
        if images.shape[1] != 3:
            images = images[:, :1]
        with files.replacing(path, sync=False) as file:
            save_image(images, file, nrow=self.n_samples, padding=1, pad_value=0.5, format="png")

    def _sizes(self) -> tuple[float, ...]:
        memory = self.memory
        return (
            memory.learned,
            size_in_bytes(memory.network) + size_in_bytes(memory.classes),
            memory_bytes_of(self.method),
            sum(p.numel() for p in memory.network.parameters()),
            memory.network.capacity_ratio,
        )

    def _write(
        self, name: str, number: int, columns: Sequence[str], rows: Iterable[Iterable[Any]]
    ) -> None:
        """Writes an experience's rows to a file, replacing rows of this and later experiences."""
        path, header = self.folder / name, ["experience", *columns]
        kept: list[list[str]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                first, *existing = list(csv.reader(file)) or [[]]
            if first == header:
                kept = [row for row in existing if int(row[0]) < number]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([header, *kept, *([number, *row] for row in rows)])
        files.write_text(path, text.getvalue(), sync=False)

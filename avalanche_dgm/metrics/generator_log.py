"""What a generator has become after each experience, in files to look at."""

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

#: What a log leaves in its folder, as patterns.
FILES = ("usage.csv", "masks.csv", "samples.csv", "samples-*.png", "sizes.csv", "quality.csv")

_USAGE = ("layer", "width", "reserved", "reused", "free")
_MASKS = ("layer", "step", "scale", "width", "active", "soft_mean", "soft_std")
_SIZES = ("classes", "generator_bytes", "memory_bytes", "parameters", "capacity_ratio")


class GeneratorLog:
    """Writes samples and statistics of a method's generator; call `note` after each experience.

    Rows of the CSV files begin with the experience, counted from 0. An experience that is noted
    again, as after an interruption, replaces what was noted of it and of later ones.

    ``samples-000.png`` and so on
        Samples of every class, a row each, in the order in which the classes were learned; of the
        same noise in every file, so that what changed can be seen. Of images only.
    ``samples.csv``
        For each of these rows task, class and a checksum: the same if not a bit has changed.
    ``sizes.csv``
        Bytes of the generator and of all that is remembered, parameters of the generator, and how
        much wider it is than at the start.
    ``usage.csv``
        Of dynamic memory: how many entries of each mask the experience was the first to use
        (reserved), shares with earlier ones (reused), and no one uses (free).
    ``masks.csv``
        Of dynamic memory, if `watch` was called: how the masks settled, see `MaskTrace`.
    ``quality.csv``
        With ``quality``: Frechet distance and accuracy of generated samples by class, and of all.

    In Avalanche `avalanche_dgm.GeneratorObserver` calls it; with a Trainer this does::

        log = GeneratorLog("runs/dgm", module)
        fit_stream(module, benchmark, after_experience=lambda result: log.note())

    and, for the masks, a callback whose ``on_train_start`` calls `watch` unless ``log.watching``.
    Nothing here draws from the method's random numbers: it learns what it would without a log.

    Args:
        folder: Where to write; made if it is not there.
        method: A method with a generator that a discriminator trained, or its plugin or
            LightningModule; ``None`` if `attach` will be called.
        quality: Measures samples, or ``None``.
        n_samples: Samples of each class in a picture, at least 1.
        seed: Of their noise.

    Raises:
        ConfigError: It is another method, or ``n_samples`` is below 1.
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
        """Says which method to look at, see the class."""
        memory_of(method)
        self.method = getattr(method, "method", method)

    @property
    def memory(self) -> GAN:
        """The method's memory."""
        return memory_of(self.method)

    def watch(self) -> None:
        """Begins to look at the masks, if the method has any.

        To be called when it has begun an experience and nothing of it was trained yet.
        """
        self.unwatch()
        memory = self.memory
        if isinstance(memory, MaskedGAN) and memory.shape is not None:
            self._trace = MaskTrace(memory.network)
            if self._resumed is not None:
                self._trace.set_state(self._resumed)

    @property
    def watching(self) -> bool:
        """Whether masks are looked at."""
        return self._trace is not None

    def state(self) -> dict[str, Any] | None:
        """What was seen of the masks in this experience, ``None`` if they are not looked at."""
        return None if self._trace is None else self._trace.state()

    def set_state(self, state: dict[str, Any] | None) -> None:
        """Goes on within an experience, before or after `watch`, with what `state` returned."""
        self._resumed = state
        if self._trace is not None and state is not None:
            self._trace.set_state(state)

    def unwatch(self) -> None:
        """Stops looking at the masks, and forgets what was seen."""
        if self._trace is not None:
            self._trace.stop()
            self._trace = None

    def note(self, experience: int | None = None) -> Quality | None:
        """Writes down what there is now; it waits for the device.

        Args:
            experience: Number of the experience learned last, from 0; ``None`` for as the memory
                counts.

        Returns:
            What was measured, ``None`` without ``quality``.

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
        self._put("samples.csv", number, ("task", "class", "sha256"), self._checksums(samples))
        if len(memory.scaler.shape) == 3:
            self._draw(samples, self.folder / f"samples-{number:03d}.png")
        self._put("sizes.csv", number, _SIZES, [self._sizes()])
        if isinstance(memory, MaskedGAN):
            last = memory.network.n_tasks - 1
            used = [(name, mask.usage(last)) for name, mask in memory.network.named_masks()]
            rows = [(name, *(use[column] for column in _USAGE[1:])) for name, use in used]
            self._put("usage.csv", number, _USAGE, rows)
        self._resumed = None
        if self._trace is not None:
            seen, self._trace = self._trace.stop(), None
            self._put("masks.csv", number, _MASKS, [look.values() for look in seen])
        if self.quality is None:
            return None
        found = self.quality.measure(self.method)
        judged: list[tuple[Any, ...]] = [("all", found.fid, found.generated_accuracy)]
        judged += [(c, fid, found.accuracy_per_class[c]) for c, fid in found.fid_per_class.items()]
        self._put("quality.csv", number, ("class", "fid", "generated_accuracy"), judged)
        return found

    def _checksums(self, samples: Sequence[Tensor]) -> Iterable[tuple[int, int, str]]:
        for (_, task, label), mine in zip(self.memory.classes.rows.tolist(), samples, strict=False):
            content = mine.cpu().contiguous().numpy().tobytes()
            yield task, label, hashlib.sha256(content).hexdigest()

    def _draw(self, samples: Sequence[Tensor], path: Path) -> None:
        from torchvision.utils import save_image

        scaler = self.memory.scaler
        images = torch.cat(list(samples)).cpu()
        # On one scale in all files: what an image is, and not what is beside it, sets its grey.
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

    def _put(
        self, name: str, number: int, columns: Sequence[str], rows: Iterable[Iterable[Any]]
    ) -> None:
        """Puts an experience's rows into a file, in place of those of this and later ones."""
        path, header = self.folder / name, ["experience", *columns]
        kept: list[list[str]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                first, *former = list(csv.reader(file)) or [[]]
            if first == header:
                kept = [row for row in former if int(row[0]) < number]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([header, *kept, *([number, *row] for row in rows)])
        files.write_text(path, text.getvalue(), sync=False)

"""Streams of features of a front end, computed once and cached on disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from avalanche_dgm.checks import one_of, whole
from avalanche_dgm.errors import DataError
from avalanche_dgm.files import replacing
from avalanche_dgm.streams.front_ends import FrontEnd, front_end
from avalanche_dgm.streams.sources import as_tensor
from avalanche_dgm.streams.tensors import LabelledImages, Task, build_benchmark

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario
    from torch import nn

#: Number of images after which new features are written to the disk.
_PART = 8192
#: Relative tolerance of features that are computed in other batches or on another device.
_SAME = 0.02


def feature_stream(
    benchmark: Any,
    front: FrontEnd | nn.Module | str,
    *,
    cache: str | os.PathLike[str] | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    batch_size: int = 128,
    workers: int = 0,
    progress: bool = True,
) -> CLScenario:
    """Replaces the images of a benchmark by their features.

    Each image is read once, in batches, with the data set's evaluation transforms.

    Args:
        benchmark: Any Avalanche benchmark of images in [0, 1].
        front: The front end, or an argument of `front_end`.
        cache: Folder of features, to which new ones are added. They are reused for the same images
            with the same weights and preprocessing, in any stream. ``None`` for no cache.
        dtype: Data type of the features in memory and on disk; samples are float32.
        batch_size: Images per batch.
        workers: Number of processes that read and decode images.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        A benchmark of vectors (D,) with the same streams (training, test, validation and others),
        experiences, classes and task labels; see `build_benchmark`.

    Raises:
        ConfigError: There is no such front end, or an option is out of range.
        DataError: A set has no images, or the cache is damaged or does not fit the front end.
        RangeError: Images are not in [0, 1].
    """
    store = FeatureStore(front_end(front), cache=cache, dtype=dtype)
    streams: dict[str, list[Task]] = {}
    for name, stream in benchmark.streams.items():
        streams[name] = []
        for i, experience in enumerate(stream):
            task = str(getattr(experience, "task_name", f"experience {i}"))
            dataset = experience.dataset.eval()
            data = store.features_of(
                dataset,
                batch_size=batch_size,
                workers=workers,
                bar=f"{name} {task}" if progress else None,
            )
            tasks = getattr(dataset, "targets_task_labels", None)
            label = 0 if tasks is None else torch.tensor([int(t) for t in tasks])
            streams[name].append(Task(data, label, task))
    highest = max(int(t.data.labels.max()) for parts in streams.values() for t in parts)
    train, test = (streams.pop(name, []) for name in ("train", "test"))
    n_classes = getattr(benchmark, "n_classes", highest + 1)
    return build_benchmark(train, test, n_classes=n_classes, **streams)


class FeatureStore:
    """Computes and caches features of images.

    Args:
        front: The front end.
        cache: Folder of the cache, or ``None``.
        dtype: Data type of stored features.

    Raises:
        ConfigError: There is no such type.
        DataError: A file of the cache is damaged.
    """

    def __init__(
        self,
        front: FrontEnd,
        *,
        cache: str | os.PathLike[str] | None = None,
        dtype: Literal["float32", "float16"] = "float32",
    ) -> None:
        one_of("dtype", dtype, "float32", "float16")
        self.front, self.dtype = front, getattr(torch, dtype)
        self._folder = None
        #: By name of an image: a tensor (n, D) of features, and a row in it.
        self._known: dict[str, tuple[Tensor, int]] = {}
        self._trusted = True
        if cache is not None:
            self._folder = Path(cache).expanduser() / f"{front.key()}-{dtype}"
            for path in sorted(self._folder.glob("*.pt")):
                self._load(path)
            self._trusted = not self._known

    def features_of(
        self, dataset: Any, *, batch_size: int = 128, workers: int = 0, bar: str | None = None
    ) -> LabelledImages:
        """Returns the features of a data set's images; computes those that are not cached.

        Args:
            dataset: Samples (image, label, ...): PIL images, arrays or tensors as in `load_pair`,
                but of any sizes that the front end takes.
            batch_size: Images per batch.
            workers: Number of processes that read images.
            bar: Title of the progress bar; ``None`` for none.

        Returns:
            Features (N, D) in place of images, and the labels.

        Raises:
            DataError: The set is empty, or the cache does not fit the front end.
        """
        whole("batch_size", batch_size)
        whole("workers", workers, least=0)
        if len(dataset) == 0:
            raise DataError("A data set is empty, so there are no features to compute.")
        loader = DataLoader(dataset, batch_size, num_workers=workers, collate_fn=_images_and_labels)
        keys: list[str] = []
        labels: list[int] = []
        new: dict[str, Tensor] = {}
        with tqdm(total=len(dataset), desc=bar, disable=None if bar else True, unit="image") as b:
            for images, targets in loader:
                names = [_name_of(image) for image in images]
                self._check(names, images)
                missing = {n: x for n, x in zip(names, images, strict=True) if n not in self._known}
                missing = {n: x for n, x in missing.items() if n not in new}
                if missing:
                    new |= dict(zip(missing, self._made(list(missing.values())), strict=True))
                if len(new) >= _PART:
                    self._add(new)
                keys += names
                labels += targets
                b.update(len(names))
        self._add(new)
        rows = torch.stack([self._known[key][0][self._known[key][1]] for key in keys])
        return LabelledImages(rows, torch.tensor(labels, dtype=torch.int64))

    def _made(self, images: list[Tensor]) -> Tensor:
        features = self.front(images).cpu()
        largest = torch.finfo(self.dtype).max
        if float(features.abs().max()) > largest:
            raise DataError(
                f"A feature is larger than {largest:g}, the largest number of {self.dtype}. Use"
                " dtype='float32'."
            )
        return features.to(self.dtype)

    def _check(self, names: list[str], images: list[Tensor]) -> None:
        """Recomputes some of the first cached features, to check the cache."""
        if self._trusted:
            return
        cached = [i for i, name in enumerate(names) if name in self._known][:4]
        if not cached:
            return
        new = self._made([images[i] for i in cached]).float()
        old = torch.stack([self._known[names[i]][0][self._known[names[i]][1]] for i in cached])
        size = float(old.float().square().mean().sqrt())
        if new.shape != old.shape or float((new - old).abs().max()) > _SAME * size:
            raise DataError(
                f"The features in {self._folder} differ from those of the front end now: the code"
                " of its preprocessing has changed, which the cache cannot detect by itself. Delete"
                " that folder, or use another cache."
            )
        self._trusted = True

    def _add(self, new: dict[str, Tensor]) -> None:
        """Adds new features to the known ones and to the disk."""
        if not new:
            return
        names, features = list(new), torch.stack(list(new.values()))
        new.clear()
        self._known |= {name: (features, i) for i, name in enumerate(names)}
        if self._folder is not None:
            part = hashlib.blake2b("".join(names).encode(), digest_size=8).hexdigest()
            with replacing(self._folder / f"{part}.pt", sync=False) as file:
                torch.save({"images": names, "features": features}, file)

    def _load(self, path: Path) -> None:
        try:
            part = torch.load(path, map_location="cpu", weights_only=True)
            names, features = part["images"], part["features"]
        except Exception as error:
            # Reading a damaged file may raise any error.
            raise DataError(
                f"{path} cannot be read: {error}. Delete it; its features are computed again."
            ) from error
        self._known |= {name: (features, i) for i, name in enumerate(names)}


def _name_of(image: Tensor) -> str:
    """A hash of an image (C, H, W)."""
    digest = hashlib.blake2b(str(tuple(image.shape)).encode(), digest_size=12)
    digest.update(image.numpy().tobytes())
    return digest.hexdigest()


def _images_and_labels(samples: list[Any]) -> tuple[list[Tensor], list[int]]:
    return [as_tensor(sample[0]) for sample in samples], [int(sample[1]) for sample in samples]

"""An Avalanche benchmark as a LightningDataModule, with one fit per experience."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm import checks
from avalanche_dgm.data import ExperienceData, check_experience
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning.batches import Batches, LazyBatches, TensorBatches
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks
from avalanche_dgm.plugins.experiences import (
    TaskOracle,
    ends_task,
    find_oracle,
    full_experience,
    image_of,
    is_part,
    load,
    reads_differ,
    starts_task,
    test_rule,
    train_rule,
)
from avalanche_dgm.plugins.samples import seeded, task_column

#: Largest size, bytes, of an experience in memory, and of all cached test sets together.
MEMORY_LIMIT = 4 * 2**30

#: Hooks of a data module that `fit_stream` does not call.
_NOT_CALLED = (
    *("prepare_data", "setup", "teardown", "train_dataloader", "test_dataloader"),
    *("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"),
)


class StreamDataModule(pl.LightningDataModule):
    """Serves a benchmark's experiences to a Trainer.

    ``trainer.fit(module, datamodule=...)`` trains on the experience set by `set_experience`;
    ``trainer.test`` tests on every experience of the test stream. Batches are tuples of images
    (n, *shape) float32, labels (n,) int64 and task labels (n,) int64.

    On several devices each process gets a shard of every batch; together the shards are the batch
    of a single process. Lightning adds no sampler. A Trainer weights all shards equally, so steps
    equal those of a single process exactly only if the batches split evenly.

    Args:
        benchmark: An Avalanche benchmark, or any object with a ``train_stream`` and a
            ``test_stream`` of its experiences; a ``valid_stream`` is used if there is one.
        batch_size: Training batch size, over all devices.
        eval_batch_size: Batch size in validation and test, over all devices.
        shuffle: Whether to shuffle in each training epoch. Otherwise batches are those of
            Avalanche's loader with ``shuffle=False``.
        seed: Seed of the order, 0 or more; the global generators are not used for it.
        in_memory: Whether to read each experience once into tensors, with the evaluation
            transforms. ``None`` does so if the training transforms are the same and not random,
            and the tensors take at most 4 GiB. Otherwise images are read for each batch.
        num_workers: Worker processes of each ``DataLoader``.
        drop_last: Whether to drop a smaller last training batch.
        oracle: How tasks are identified; see `avalanche_dgm.plugins.experiences`.

    Attributes:
        experience: Index of the experience to train on.

    Raises:
        ConfigError: The benchmark has no streams, or an argument is out of range.
    """

    def __init__(
        self,
        benchmark: Any,
        *,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        shuffle: bool = True,
        seed: int = 0,
        in_memory: bool | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
        oracle: str | TaskOracle = "auto",
    ) -> None:
        """See the class for the arguments."""
        super().__init__()
        for name in ("train_stream", "test_stream"):
            if getattr(benchmark, name, None) is None:
                raise ConfigError(
                    f"The benchmark, a {type(benchmark).__name__}, has no {name}. Pass an Avalanche"
                    " benchmark, such as sklearn_digits(), or an object with a train_stream and a"
                    " test_stream."
                )
        checks.whole("batch_size", batch_size)
        checks.whole("eval_batch_size", eval_batch_size)
        checks.whole("seed", seed, least=0)
        checks.whole("num_workers", num_workers, least=0)
        self.benchmark = _with_lengths(benchmark)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.in_memory, self.num_workers = in_memory, num_workers
        self.oracle = find_oracle(oracle)
        self.experience = 0
        self._training: tuple[Any, ExperienceData] | None = None
        self._evaluation: dict[Any, ExperienceData] = {}
        self._tensors: dict[tuple[str, int], bool] = {}

    @property
    def n_experiences(self) -> int:
        """Number of training experiences."""
        return len(self.benchmark.train_stream)

    def set_experience(self, i: int) -> None:
        """Sets the experience of the next fit by its position in the training stream, from 0.

        Raises:
            ConfigError: The stream is shorter.
        """
        self._find("train", i)
        self.experience = i

    def train_dataloader(self) -> Batches:
        """This process's shards of the current experience's batches."""
        return self.train_batches(self.experience, ranks=self._ranks())

    def val_dataloader(self) -> list[Batches]:
        """This process's shards of the validation batches; empty without a validation stream."""
        stream = getattr(self.benchmark, "valid_stream", None)
        if stream is None or self.experience >= len(stream):
            # Lightning would warn in each fit.
            warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
            return []
        return [self._evaluated("valid", self.experience, self._ranks())]

    def test_dataloader(self) -> list[Batches]:
        """This process's shards of the batches of every test experience."""
        n = len(self.benchmark.test_stream)
        return [self.test_batches(j, ranks=self._ranks()) for j in range(n)]

    def predict_dataloader(self) -> list[Batches]:
        return self.test_dataloader()

    def train_batches(
        self,
        i: int,
        *,
        ranks: Ranks | None = None,
        whole: bool = False,
        data: ExperienceData | None = None,
    ) -> Batches:
        """Training batches of an experience.

        Args:
            i: Position in the training stream.
            ranks: This process among those that share each batch; ``None`` is a single one.
            whole: Yield full batches in each process if they are in memory.
            data: Samples to use in place of the experience's.

        Raises:
            ConfigError: The stream is shorter, or there are no batches.
            DataError: The experience cannot be learned.
        """
        # Overfitting needs the same batches in each epoch.
        shuffle = self.shuffle and not getattr(self.trainer, "overfit_batches", 0)
        choices = {
            "batch_size": self.batch_size,
            "shuffle": shuffle,
            "seed": self.seed,
            "drop_last": self.drop_last,
        }
        if data is None and self.reads_once("train", i):
            part = self.is_part(i)
            data = self._load(self._find("train", i), i) if part else self.experience_data(i)
        return self._batches("train", i, data, ranks=ranks, whole=whole, **choices)

    def test_batches(self, j: int, *, ranks: Ranks | None = None, whole: bool = False) -> Batches:
        """Batches of a test experience, in its order; see `train_batches`.

        Raises:
            ConfigError: The stream is shorter.
            DataError: The experience holds no samples, or not images with classes.
        """
        return self._evaluated("test", j, ranks, whole=whole)

    def experience_data(self, i: int) -> ExperienceData:
        """All samples of a training experience, without augmentations.

        For a part of a task in an online stream, these are the samples of the whole task. They are
        on the Trainer's device, or on the CPU without a Trainer. Only the last returned experience
        is cached.

        Raises:
            ConfigError: The stream is shorter.
            DataError: The samples cannot be learned.
        """
        place = (self.first_part(i), self._device())
        if self._training is None or self._training[0] != place:
            self._training = None
            self._training = (place, self._load(full_experience(self._find("train", i)), i))
        return self._training[1]

    def is_part(self, i: int) -> bool:
        """Whether a training experience is a part of a task in an online stream."""
        return is_part(self._find("train", i))

    def ends_task(self, i: int) -> bool:
        """Whether a training experience is the last part of a task."""
        parts = [self._find("train", j) for j in range(self.first_part(i), i + 1)]
        return ends_task(parts[-1], sum(len(part.dataset) for part in parts))

    def first_part(self, i: int) -> int:
        """Index of the first part of a training experience's task."""
        while not starts_task(self._find("train", i)):
            i -= 1
        return i

    def test_task_of(self, experience: Any) -> str:
        """The name of a test experience's task."""
        return test_rule(self.oracle, self._rule_of(self._find("train", 0)))(experience)

    def _rule_of(self, experience: Any) -> TaskOracle:
        return train_rule(self.oracle, full_experience(experience), self.benchmark.train_stream)

    def state_dict(self) -> dict[str, Any]:
        return {"experience": self.experience}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.set_experience(state_dict["experience"])

    def _evaluated(
        self, stream: str, j: int, ranks: Ranks | None, *, whole: bool = False
    ) -> Batches:
        data = self._evaluation_data(stream, j) if self.reads_once(stream, j) else None
        choices = {"batch_size": self.eval_batch_size, "exact": True}
        return self._batches(stream, j, data, ranks=ranks, whole=whole, **choices)

    def _batches(
        self, stream: str, i: int, data: ExperienceData | None, *, whole: bool, **choices: Any
    ) -> Batches:
        training, choices = stream == "train", {"experience": i, **choices}
        if data is not None:
            tasks = data.tasks if training else None
            return TensorBatches(data, tasks=tasks, whole=whole, **choices)
        experience = self._find(stream, i)
        dataset, column = experience.dataset, task_column(experience)
        dataset = dataset.train() if training else dataset.eval()
        if training and column is not None:
            choices["tasks"] = _task_labels(dataset)
        return LazyBatches(dataset, num_workers=self.num_workers, task_column=column, **choices)

    def _evaluation_data(self, stream: str, j: int) -> ExperienceData:
        """Reads test samples, cached as they are used again after every experience."""
        place = (stream, j, self._device())
        if place not in self._evaluation:
            data = self._load(self._find(stream, j), j)
            kept = sum(d.images.nbytes for d in self._evaluation.values())
            if kept + data.images.nbytes > MEMORY_LIMIT:
                return data
            self._evaluation[place] = data
        return self._evaluation[place]

    def _load(self, experience: Any, i: int) -> ExperienceData:
        try:
            key = self._rule_of(experience)(experience)
        except AttributeError:
            # Not an Avalanche experience: it has no classes or task labels.
            key = f"#{i}"
        # A DataLoader draws from the global generator; caching must not change later draws.
        with torch.random.fork_rng(devices=[]):
            data = load(experience, key=key, device=self._device(), num_workers=self.num_workers)
        check_experience(data)
        return data

    def reads_once(self, stream: str, i: int) -> bool:
        """Whether an experience is read once into tensors, with the evaluation transforms.

        It is the one at position ``i`` of the stream ``"train"``, ``"valid"`` or ``"test"``.
        """
        if self.in_memory is not None:
            return self.in_memory
        if (stream, i) not in self._tensors:
            dataset = self._find(stream, i).dataset
            self._tensors[stream, i] = _fits_in_memory(dataset, training=stream == "train")
        return self._tensors[stream, i]

    def _find(self, stream: str, i: int) -> Any:
        experiences = getattr(self.benchmark, f"{stream}_stream")
        if not isinstance(i, int) or not 0 <= i < len(experiences):
            raise ConfigError(
                f"There is no experience {i}: the {stream} stream has experiences 0 to"
                f" {len(experiences) - 1}."
            )
        return experiences[i]

    def _ranks(self) -> Ranks | None:
        return None if self.trainer is None else Ranks.of(self.trainer)

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device


def check_hooks(data: StreamDataModule) -> None:
    """Checks that a subclass overrides no hooks that `fit_stream` does not call.

    Raises:
        ConfigError: It overrides one.
    """
    kind = type(data)
    for name in _NOT_CALLED:
        if getattr(kind, name) is not getattr(StreamDataModule, name):
            raise ConfigError(
                f"fit_stream does not call {name}() of {kind.__name__}, as a stream is many fits."
                " Build the benchmark before, override train_batches() and test_batches() for other"
                " loaders, and on_after_batch_transfer() of the module to change batches."
            )


def _with_lengths(benchmark: Any) -> Any:
    """Turns streams that are iterators into lists."""
    names = ("train_stream", "test_stream", "valid_stream")
    streams = {name: getattr(benchmark, name, None) for name in names}
    if all(s is None or isinstance(s, Sequence) for s in streams.values()):
        return benchmark
    return SimpleNamespace(
        **{name: list(stream) for name, stream in streams.items() if stream is not None}
    )


def _task_labels(dataset: Any) -> Tensor | None:
    labels = getattr(dataset, "targets_task_labels", None)
    return None if labels is None else torch.as_tensor([int(t) for t in labels])


def _fits_in_memory(dataset: Any, *, training: bool) -> bool:
    """Whether a dataset can be read once into tensors.

    It cannot if reading it is random, if the tensors would take more than 4 GiB or, for training,
    if its training transforms differ from those of evaluation. Reads some samples under a fixed
    seed, restored afterwards, so that all processes agree.
    """
    n = len(dataset)
    if n == 0:
        return True
    evaluated = dataset.eval()
    with seeded(0):
        size = image_of(evaluated, 0).numel() * torch.finfo(torch.float32).bits // 8
    if n * size > MEMORY_LIMIT:
        return False
    return not reads_differ(dataset.train() if training else evaluated, evaluated)

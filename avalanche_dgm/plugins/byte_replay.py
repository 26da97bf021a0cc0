"""Avalanche's replay and DER++ with a budget of bytes in place of a number of images."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.models.dynamic_modules import MultiTaskModule
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.supervised import DER

from avalanche_dgm.checks import read_bytes
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.held import image_bytes
from avalanche_dgm.modules import evaluating

#: Bytes of the random number by which Avalanche's reservoir chooses an image to keep.
_WEIGHT = 4


def fitting(memory_budget: int, dataset: Any, *, beside: int = 0) -> int:
    """Counts the images that fit into some bytes.

    Args:
        memory_budget: Bytes of all of them.
        dataset: Where they come from.
        beside: Bytes that are stored with each, other than what the reservoir needs.

    Raises:
        ConfigError: No image fits, or nothing tells how large one is.
    """
    size = image_bytes(dataset)
    each = None if size is None else size + beside + _WEIGHT
    if each is None or each > memory_budget:
        found = "of a size that is not known" if each is None else f"{each - _WEIGHT} bytes large"
        raise ConfigError(
            f"No image fits into memory_budget={memory_budget}: one is {found}. Give more, or"
            " mem_size, a number of images."
        )
    return memory_budget // each


class ByteReplayPlugin(ReplayPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Stores real images, as many as fit into some bytes, and replays them.

    Replay is that of Avalanche's ``ReplayPlugin``. An image is as large as its data set stores it:
    784 bytes of MNIST, one for each pixel, although the network is shown floating-point numbers.

    Args:
        memory_budget: Bytes of all images, with the 4 that the reservoir needs for each, as a
            number or a text such as ``"1MB"``; ``None`` to store ``mem_size`` images.
        mem_size: Images, without ``memory_budget``.
        batch_size: See ``ReplayPlugin``, as for the arguments below.
        batch_size_mem: Images replayed with each batch.
        task_balanced_dataloader: Whether each batch has as many images of each task.
        storage_policy: Which images are kept.

    Raises:
        ConfigError: ``memory_budget`` is no number of bytes.
    """

    def __init__(
        self,
        mem_size: int = 200,
        batch_size: int | None = None,
        batch_size_mem: int | None = None,
        task_balanced_dataloader: bool = False,
        storage_policy: Any = None,
        *,
        memory_budget: int | str | None = None,
    ) -> None:
        super().__init__(
            mem_size, batch_size, batch_size_mem, task_balanced_dataloader, storage_policy
        )
        self.memory_budget = read_bytes("memory_budget", memory_budget)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Counts how many images fit, before the first experience.

        Raises:
            ConfigError: No image fits, or nothing tells how large one is.
        """
        if self.memory_budget is not None and not len(self.storage_policy.buffer):
            self.mem_size = fitting(self.memory_budget, strategy.experience.dataset)
            self.storage_policy.max_size = self.mem_size
        super().before_training_exp(strategy, *args, **kwargs)


class ByteDER(DER):
    """Avalanche's dark experience replay (DER, DER++; Buzzega et al. 2020), as many as bytes allow.

    With each image it stores the logits that the model gave when its experience ended: 4 bytes a
    class. Replay is Avalanche's, which is left out as long as fewer images are stored than a batch
    of it has; here that batch is not larger than the memory.

    Args:
        mem_size: Images, without ``memory_budget``.
        batch_size_mem: Images replayed with each batch; ``None`` for as many as are new.
        alpha: Weight of the squared distance from the logits stored.
        beta: Weight of the loss on the labels stored; 0 is DER, above it DER++.
        memory_budget: Bytes of all images and logits, with the 4 that the reservoir needs for each;
            ``None`` to store ``mem_size`` images.
        **strategy: Arguments of Avalanche's ``SupervisedTemplate``.

    Raises:
        ConfigError: ``memory_budget`` is no number of bytes, or the model takes task labels; or,
            when training begins, not even one image of each class fits.
    """

    batch_size_mem: int

    def __init__(
        self,
        *,
        mem_size: int = 200,
        batch_size_mem: int | None = None,
        alpha: float = 0.1,
        beta: float = 0.5,
        memory_budget: int | str | None = None,
        **strategy: Any,
    ) -> None:
        if isinstance(strategy.get("model"), MultiTaskModule):
            raise ConfigError("DER stores the logits of a model with one head for all tasks only.")
        super().__init__(
            mem_size=mem_size, batch_size_mem=batch_size_mem, alpha=alpha, beta=beta, **strategy
        )
        self.memory_budget = read_bytes("memory_budget", memory_budget)
        self._most_replayed = self.batch_size_mem

    def _before_training_exp(self, **kwargs: Any) -> None:
        stored = len(self.storage_policy.buffer)
        if not stored:
            dataset = self.experience.dataset
            image = torch.as_tensor(dataset.eval()[0][0])[None].to(self.device)
            with torch.no_grad(), evaluating(self.model):
                logits = self.model(image)
            if self.memory_budget is not None:
                most = fitting(self.memory_budget, dataset, beside=logits.nbytes)
                self.storage_policy.max_size = most
            if self.storage_policy.max_size < logits.shape[1]:
                raise ConfigError(
                    f"DER stores as many images of each class, and {self.storage_policy.max_size}"
                    f" are fewer than the {logits.shape[1]} classes. Give a larger memory_budget or"
                    " mem_size."
                )
        self.batch_size_mem = max(1, min(self._most_replayed, stored))
        super()._before_training_exp(**kwargs)

    def _after_training_exp(self, **kwargs: Any) -> None:
        # As it was made, by which a checkpoint is known to be of the same run.
        self.batch_size_mem = self._most_replayed
        super()._after_training_exp(**kwargs)

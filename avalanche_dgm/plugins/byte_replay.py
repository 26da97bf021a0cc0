"""Avalanche's replay and DER++ with a memory budget in bytes instead of a number of images."""

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

#: Bytes of the random number that Avalanche's reservoir stores for each image.
_WEIGHT = 4


def images_in_budget(memory_budget: int, dataset: Any, *, extra_bytes: int = 0) -> int:
    """Returns the number of images of a dataset that fit into a memory budget, in bytes.

    With each image, its weight in Avalanche's reservoir and ``extra_bytes`` are stored.

    Raises:
        ConfigError: No image fits, or the size of an image is not known.
    """
    size = image_bytes(dataset)
    per_image = None if size is None else size + extra_bytes + _WEIGHT
    if per_image is None or per_image > memory_budget:
        known = "is not known" if per_image is None else f"is {per_image - _WEIGHT} bytes"
        raise ConfigError(
            f"No image fits into memory_budget={memory_budget}: the size of one {known}. Give a"
            " larger budget, or mem_size, a number of images."
        )
    return memory_budget // per_image


class ByteReplayPlugin(ReplayPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Replays real images, as many as fit into a memory budget.

    Replay is that of Avalanche's ``ReplayPlugin``. The size of an image is that in its dataset,
    such as 784 bytes in MNIST, not that of the floating-point tensor.

    Args:
        memory_budget: Bytes of all images, including 4 per image for the reservoir, as a number or
            a string such as ``"1MB"``; ``None`` to store ``mem_size`` images.
        mem_size: Number of images, without ``memory_budget``.
        batch_size: New images in each batch; ``None`` for the training batch size.
        batch_size_mem: Images replayed with each batch; ``None`` for ``batch_size``.
        task_balanced_dataloader: Whether replayed images are balanced over tasks.
        storage_policy: Avalanche's policy of which images are stored; ``None`` for a random sample
            of each experience.

    Raises:
        ConfigError: ``memory_budget`` is not a number of bytes.
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
        """Computes the number of images that fit, before the first experience.

        Raises:
            ConfigError: No image fits, or the size of an image is not known.
        """
        if self.memory_budget is not None and not len(self.storage_policy.buffer):
            self.mem_size = images_in_budget(self.memory_budget, strategy.experience.dataset)
            self.storage_policy.max_size = self.mem_size
        super().before_training_exp(strategy, *args, **kwargs)


class ByteDER(DER):
    """Avalanche's dark experience replay (DER, DER++; Buzzega et al. 2020) with a memory budget.

    With each image it stores the model's logits from the end of the experience, 4 bytes per class.
    Avalanche does not replay while the memory holds fewer images than a replay batch; here the
    replay batch is at most as large as the memory.

    Args:
        mem_size: Number of images, without ``memory_budget``.
        batch_size_mem: Images replayed with each batch; ``None`` for the training batch size.
        alpha: Weight of the squared distance from the stored logits.
        beta: Weight of the loss on the stored labels; 0 is DER, larger values are DER++.
        memory_budget: Bytes of all images and logits, including 4 per image for the reservoir;
            ``None`` to store ``mem_size`` images.
        **strategy: Arguments of Avalanche's ``SupervisedTemplate``.

    Raises:
        ConfigError: ``memory_budget`` is not a number of bytes, or the model takes task labels; or,
            at the start of training, fewer images fit than there are classes.
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
            raise ConfigError("DER needs a model with one head for all tasks.")
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
                self.storage_policy.max_size = images_in_budget(
                    self.memory_budget, dataset, extra_bytes=logits.nbytes
                )
            if self.storage_policy.max_size < logits.shape[1]:
                raise ConfigError(
                    f"DER stores the same number of images per class, and"
                    f" {self.storage_policy.max_size} images are fewer than {logits.shape[1]}"
                    " classes. Give a larger memory_budget or mem_size."
                )
        self.batch_size_mem = max(1, min(self._most_replayed, stored))
        super()._before_training_exp(**kwargs)

    def _after_training_exp(self, **kwargs: Any) -> None:
        # Restores the constructor argument, which checkpoints compare.
        self.batch_size_mem = self._most_replayed
        super()._after_training_exp(**kwargs)

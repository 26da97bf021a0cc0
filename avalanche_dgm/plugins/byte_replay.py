"""Avalanche's replay of stored images with a budget of bytes in place of a number of images."""

from __future__ import annotations

from typing import Any

from avalanche.training.plugins import ReplayPlugin

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.held import image_bytes
from avalanche_dgm.settings import read_bytes

#: Bytes of the random number by which Avalanche's reservoir chooses an image to keep.
_WEIGHT = 4


class ByteReplayPlugin(ReplayPlugin, supports_distributed=True):  # type: ignore[call-arg]
    """Stores real images, as many as fit into some bytes, and replays them.

    Replay is that of Avalanche's ``ReplayPlugin``. An image is as large as its data set stores it:
    784 bytes of MNIST, one for each pixel, although the network is shown floating-point numbers.

    Args:
        memory_budget: Bytes of all images, with the 4 that the reservoir needs for each, as a
            number or a text such as ``"1MB"``; ``None`` to
            store ``mem_size`` images.
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
            size = image_bytes(strategy.experience.dataset)
            if size is None or size + _WEIGHT > self.memory_budget:
                found = "of a size that is not known" if size is None else f"{size} bytes large"
                raise ConfigError(
                    f"No image fits into memory_budget={self.memory_budget}: one is {found}. Give"
                    " more, or mem_size, a number of images."
                )
            self.mem_size = self.memory_budget // (size + _WEIGHT)
            self.storage_policy.max_size = self.mem_size
        super().before_training_exp(strategy, *args, **kwargs)

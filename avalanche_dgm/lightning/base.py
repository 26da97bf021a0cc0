"""Base classes of the LightningModules: exact logged means, and training of one network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning.package import check_package, pl
from avalanche_dgm.lightning.trainers import may_fuse
from avalanche_dgm.optimizers import OptimizerSpec

#: A function from parameters to their optimiser.
OptimizerMaker = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Means:
    """Running means by key; adding values does not synchronise with the device."""

    def __init__(self) -> None:
        #: By key, the sum of values and their number.
        self.sums: dict[Any, tuple[Tensor, int]] = {}

    def add(self, key: Any, total: Tensor, n: int = 1) -> None:
        """Adds the sum of ``n`` values."""
        before, seen = self.sums.get(key, (0.0, 0))
        self.sums[key] = (before + total.detach().float(), seen + n)

    def values(self) -> dict[Any, Tensor]:
        """The means by key."""
        return {key: total / n for key, (total, n) in self.sums.items()}

    def total(self) -> Tensor:
        """The sum over all keys; not finite if any value was not."""
        return torch.stack([total for total, _ in self.sums.values()]).sum()

    def set_sums(self, sums: dict[Any, tuple[Tensor, int]], device: torch.device) -> None:
        """Restores `sums` on a device."""
        self.sums = {key: (total.to(device), n) for key, (total, n) in sums.items()}


class MeanLoggingModule(pl.LightningModule):
    """Logs means over samples, exact also on several devices."""

    def setup(self, stage: str) -> None:
        """Checks callbacks and loggers.

        Raises:
            ConfigError: A callback or logger is from Lightning's other package.
        """
        trainer: Any = self.trainer
        check_package(trainer.callbacks, trainer.loggers)

    def log_means(self, means: dict[str, Tensor], n: int) -> None:
        """Logs means over this process's ``n`` samples, averaged over all samples of the epoch."""
        # With gloo, Lightning would truncate the mean over processes of integer counts.
        count: Any = float(n)
        how: dict[str, Any] = {"on_step": False, "on_epoch": True, "sync_dist": True}
        self.log_dict(means, prog_bar=True, batch_size=count, **how)


class NetworkModule(MeanLoggingModule, ABC):
    """A network with one optimiser, which logs means over samples.

    Attributes:
        optimizer: Specification of the optimiser, or a function from parameters to one.
    """

    optimizer: OptimizerSpec | OptimizerMaker

    @abstractmethod
    def network(self) -> nn.Module:
        """The network to train."""

    @abstractmethod
    def measure(self, stage: str, batch: Any, batch_idx: int) -> tuple[dict[str, Tensor], int]:
        """Means over a batch, including ``loss``, and the number of samples.

        The stage is ``"train"``, ``"val"`` or ``"test"``.
        """

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._measure("train", batch, batch_idx)
        self.log("train/loss_step", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._measure("val", batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._measure("test", batch, batch_idx)

    def _measure(self, stage: str, batch: Any, batch_idx: int) -> Tensor:
        means, n = self.measure(stage, batch, batch_idx)
        self.log_means({f"{stage}/{name}": mean for name, mean in means.items()}, n)
        return means["loss"]

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Clips by the Trainer's settings, then by the specification's."""
        super().configure_gradient_clipping(*args, **kwargs)
        if isinstance(self.optimizer, OptimizerSpec):
            self.optimizer.clip(self.network())

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule over all steps of the fit.

        Raises:
            ConfigError: The network has no parameters to train, or the number of steps that the
                schedule needs is not known.
        """
        network, spec = self.network(), self.optimizer
        if not any(p.requires_grad for p in network.parameters()):
            raise ConfigError(
                f"The {type(network).__name__} has no parameters to train. Unfreeze some of them,"
                " or use the Trainer's test and predict only."
            )
        if not isinstance(spec, OptimizerSpec):
            return spec(network.parameters())
        optimizer = spec.build(network, fused=may_fuse(self.trainer))
        steps = self.trainer.estimated_stepping_batches
        if spec.schedule != "constant" and steps == float("inf"):
            raise ConfigError(
                f"schedule={spec.schedule!r} needs a number of steps: give the Trainer max_epochs"
                " and a loader with a length, or use schedule='constant'."
            )
        schedule = spec.build_schedule(optimizer, int(steps)) if steps < float("inf") else None
        return with_schedule(optimizer, schedule)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.checked = False


def read_optimizer(optimizer: Any) -> OptimizerSpec | OptimizerMaker:
    """A module's argument ``optimizer``, of which a checkpoint holds a dictionary.

    Raises:
        ConfigError: It is neither a specification nor a function.
    """
    if isinstance(optimizer, dict):
        return OptimizerSpec.read("optimizer", optimizer)
    if isinstance(optimizer, OptimizerSpec) or callable(optimizer):
        return optimizer
    raise ConfigError(
        f"optimizer={optimizer!r}: pass an OptimizerSpec, or a function from parameters to an"
        " optimiser such as lambda p: torch.optim.SGD(p, lr=0.1), also to load_from_checkpoint: a"
        " checkpoint holds no code."
    )


def with_schedule(
    optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler | None
) -> Any:
    """The return value of ``configure_optimizers`` for an optimiser and its schedule, if any."""
    if schedule is None:
        return optimizer
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": schedule, "interval": "step"},
    }

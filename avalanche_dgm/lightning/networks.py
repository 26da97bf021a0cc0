"""LightningModules of a VAE and a classifier, for ``Trainer.fit`` with any loader."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.errors import ConfigError, DataError, LabelError
from avalanche_dgm.generators.vae import VAE, VAESpec, check_images, choose_spec
from avalanche_dgm.lightning.base import NetworkModule, OptimizerMaker, read_optimizer
from avalanche_dgm.memories.classifiers import logits_of
from avalanche_dgm.modules import evaluating
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.randomness import RandomSource
from avalanche_dgm.settings import plain


class VAEModule(NetworkModule):
    """A variational autoencoder (Kingma & Welling 2014).

    Batches are images, or tuples or lists that begin with images. Logs ``train/loss``,
    ``val/loss`` and ``test/loss`` in nats per image; the last two are the negative evidence lower
    bound with a ``kl_weight`` of 1, with the same noise in every epoch.

    Args:
        spec: Sizes, likelihood and range of the images; see `for_images`.
        kl_weight: Factor of the KL divergence from the prior in training (Higgins et al. 2017).
        optimizer: Specification of the optimiser.
        seed: Seed of the initial weights and the noise; ``None`` draws one from PyTorch's global
            generator.

    Attributes:
        vae: The network.
        random: Its random source; the state is in checkpoints.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        spec: VAESpec | dict[str, Any],
        *,
        kl_weight: float = 1.0,
        optimizer: OptimizerSpec | dict[str, Any] = OptimizerSpec(),
        seed: int | None = None,
    ) -> None:
        super().__init__()
        # Plain values that a checkpoint can hold and `load_from_checkpoint` passes to __init__.
        spec = VAESpec.from_dict(spec) if isinstance(spec, dict) else spec
        if not isinstance(spec, VAESpec):
            raise ConfigError(
                f"spec={spec!r} is a {type(spec).__name__}; a VAESpec is needed."
                " VAEModule.for_images(images) chooses one for your images."
            )
        self.optimizer = OptimizerSpec.read("optimizer", optimizer)
        if kl_weight < 0:
            raise ConfigError(f"kl_weight={kl_weight} must be 0 or more.")
        kept = {"optimizer": self.optimizer, "kl_weight": kl_weight, "seed": seed}
        self.save_hyperparameters(plain({"spec": spec.to_dict(), **kept}))
        self.kl_weight = kl_weight
        self.random = RandomSource(seed)
        with self.random.seeded_init():
            self.vae = VAE(spec)
        self._rank_seeds = ExitStack()

    @classmethod
    def for_images(
        cls,
        images: Tensor,
        *,
        kl_weight: float = 1.0,
        optimizer: OptimizerSpec | None = None,
        seed: int | None = None,
        **choices: Any,
    ) -> VAEModule:
        """Makes a module with sizes, likelihood and range chosen for images.

        Args:
            images: Float tensor (N, C, H, W) or (N, D).
            kl_weight: See the class.
            optimizer: See the class.
            seed: See the class.
            **choices: Overrides for `avalanche_dgm.generators.vae.choose_spec`:
                ``architecture``, ``hidden``, ``latent``, ``likelihood``, ``value_range``.

        Raises:
            RangeError: Images lie outside of ``value_range``.
        """
        spec = choose_spec(images, **choices)
        return cls(spec, kl_weight=kl_weight, optimizer=optimizer or OptimizerSpec(), seed=seed)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructs images.

        Args:
            images: Float tensor (n, *shape).

        Returns:
            Tensor (n, *shape).
        """
        return self.vae.reconstruct(images)

    def measure(self, stage: str, batch: Any, batch_idx: int) -> tuple[dict[str, Tensor], int]:
        """The mean loss, nats per image."""
        images, kl_weight = self._images(batch), 1.0
        if stage == "train":
            rng, kl_weight = self.random.on(self.device), self.kl_weight
        else:
            # The noise of training must not depend on how often validation runs.
            seed = batch_idx * self.trainer.world_size + self.trainer.global_rank
            rng = torch.Generator(device=self.device).manual_seed(seed)
        loss = self.vae.negative_elbo(images, rng, kl_weight=kl_weight).mean()
        return {"loss": loss}, len(images)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Reconstructions (n, *shape)."""
        return self(self._images(batch))

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Samples ``n`` images from the prior.

        Returns:
            Tensor (n, *shape), in the images' range.
        """
        with evaluating(self.vae):
            return self.vae.sample(n, self.random.on(self.device))

    def network(self) -> nn.Module:
        return self.vae

    def on_train_start(self) -> None:
        """Seeds the noise by rank, on several devices."""
        if self.trainer.world_size > 1:
            self._rank_seeds.enter_context(self.random.rank_seeded(self.trainer.global_rank))

    def on_train_end(self) -> None:
        """Restores a random state that is the same in every process."""
        self._rank_seeds.close()

    def get_extra_state(self) -> dict[str, Any]:
        return self.random.get_state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.random.set_state(state)

    def _images(self, batch: Any) -> Tensor:
        images = _batch_tensors(batch)[0]
        if not self.checked:
            check_images(self.vae.spec, images)
            self.checked = True
        return images


class ClassifierModule(NetworkModule):
    """A classifier trained with the cross-entropy.

    Batches are tuples or lists of images and class labels; of three or more entries, the last is
    the task labels. Logs ``loss`` (nats) and ``accuracy`` (0 to 1) under ``train/``, ``val/`` and
    ``test/``. A checkpoint holds the model's weights, but no code: load it with
    ``ClassifierModule.load_from_checkpoint(path, model=...)``, and pass a function given as
    ``optimizer`` again.

    Args:
        model: The classifier: images (n, *shape) to logits (n, K).
        optimizer: Specification of the optimiser, or a function from parameters to an optimiser.
        task_aware: Whether the model takes task labels as its second argument.

    Raises:
        ConfigError: ``optimizer`` is neither.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: OptimizerSpec | OptimizerMaker | dict[str, Any] = OptimizerSpec(),
        task_aware: bool = False,
    ) -> None:
        super().__init__()
        self.optimizer = read_optimizer(optimizer)
        self.save_hyperparameters({"task_aware": task_aware, "optimizer": plain(self.optimizer)})
        self.model, self.task_aware = model, task_aware

    def forward(self, images: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Predicts.

        Args:
            images: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels; 0 by default.

        Returns:
            Logits (n, K).

        Raises:
            UnsupportedModelError: The model's output has another type or shape.
        """
        if tasks is None:
            tasks = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return logits_of(self.model, images, tasks, task_aware=self.task_aware)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Logits (n, K)."""
        images, *rest = _batch_tensors(batch)
        return self(images, _tasks(rest))

    def network(self) -> nn.Module:
        return self.model

    def measure(self, stage: str, batch: Any, batch_idx: int) -> tuple[dict[str, Tensor], int]:
        """The mean cross-entropy, nats, and the accuracy, 0 to 1."""
        images, *rest = _batch_tensors(batch)
        if not rest:
            raise DataError(
                "The batches hold images only; a classifier needs labels. Use a loader whose"
                " batches are (images, labels) or (images, labels, task labels)."
            )
        labels, logits = rest[0], self(images, _tasks(rest))
        if not self.checked:
            _check_labels(labels, logits)
            self.checked = True
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}, len(labels)


def _batch_tensors(batch: Any) -> list[Tensor]:
    """The tensors of a batch, images first.

    Raises:
        DataError: The batch is not a tensor, or a tuple or list of tensors.
    """
    columns = list(batch) if isinstance(batch, (tuple, list)) else [batch]
    if not columns or not all(isinstance(column, Tensor) for column in columns):
        kinds = ", ".join(type(column).__name__ for column in columns)
        raise DataError(
            f"A batch holds {kinds or 'nothing'}; a tensor of images is needed, or a tuple of"
            " tensors that begins with images."
        )
    return columns


def _tasks(rest: list[Tensor]) -> Tensor | None:
    return rest[-1] if len(rest) > 1 else None


def _check_labels(labels: Tensor, logits: Tensor) -> None:
    """Checks labels with messages that a GPU's failed assertion would not give."""
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise LabelError(
            f"The labels have shape {tuple(labels.shape)} and type {labels.dtype}; one int64 class"
            " index for each image is needed."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise LabelError(
            f"The labels go from {low} to {high}, but the model has {logits.shape[1]} outputs,"
            f" classes 0 to {logits.shape[1] - 1}. Give it as many outputs as there are classes."
        )

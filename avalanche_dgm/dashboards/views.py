"""Samples, reconstructions and latents of a method, for panels; training is not changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avalanche_dgm.classes import ClassTable
from avalanche_dgm.data import Latents
from avalanche_dgm.errors import UnknownTaskError
from avalanche_dgm.generators.masked_gan import MaskedGAN
from avalanche_dgm.methods import Method
from avalanche_dgm.methods.abilities import Inspectable
from avalanche_dgm.methods.adversarial import GANMethod
from avalanche_dgm.metrics.generator_quality import fixed_samples
from avalanche_dgm.modules import evaluating

#: Task label and class.
Class = tuple[int, int]
#: Factor of oversampling, as a memory samples classes at random.
_OVERSAMPLING = 4


@dataclass
class Examples:
    """A few test images of each class, for panels.

    Attributes:
        images: Float tensor (n, *shape).
        labels: int64 tensor (n,).
        tasks: int64 tensor (n,), task labels.
        experiences: int64 tensor (n,), positions of the images' experiences in the test stream.
    """

    images: Tensor
    labels: Tensor
    tasks: Tensor
    experiences: Tensor

    def of_experiences(self, positions: Sequence[int]) -> Examples:
        """The images of some test experiences."""
        selected = torch.tensor(sorted(set(positions)), device=self.experiences.device)
        return self[torch.isin(self.experiences, selected)]

    def __getitem__(self, index: slice | Tensor) -> Examples:
        """A subset of the images, by a slice or a bool tensor (n,)."""
        return Examples(
            self.images[index], self.labels[index], self.tasks[index], self.experiences[index]
        )

    def positions(self) -> set[int]:
        """Positions of the images' test experiences."""
        return set(self.experiences.tolist())

    def classes(self) -> list[Class]:
        """Pairs of task label and class, in ascending order."""
        return sorted(set(zip(self.tasks.tolist(), self.labels.tolist(), strict=True)))

    def rows_of(self, pair: Class) -> Tensor:
        """Indices of a class's images."""
        return ((self.tasks == pair[0]) & (self.labels == pair[1])).nonzero().flatten()


@torch.no_grad()
def samples(method: Method, n: int, *, n_classes: int, seed: int = 0) -> dict[Class, Tensor]:
    """Samples from a method's memory, by class.

    Args:
        method: The method.
        n: Maximum number of samples per class.
        n_classes: Approximate number of learned classes.
        seed: Seed of the samples.

    Returns:
        A float tensor (k, *shape), k <= n, for each sampled class; empty if the method cannot
        generate samples, or only latents.
    """
    by_class: dict[Class, Tensor] = {}
    if isinstance(method, GANMethod):
        memory = method.generator
        for row, (_, task, label) in enumerate(memory.classes.rows[: memory.learned].tolist()):
            by_class[task, label] = fixed_samples(memory, row, n, seed=seed)
        return dict(sorted(by_class.items()))
    if not isinstance(method, Inspectable):
        return {}
    with method.random.temporary_seed(seed):
        try:
            replay = method.sample(_OVERSAMPLING * n * max(n_classes, 1))
        except UnknownTaskError:  # The method has no samples.
            return {}
    if isinstance(replay.images, Latents):
        return {}
    classes = ClassTable()
    rows = classes.add(replay.tasks, replay.labels)
    for row, (_, task, label) in enumerate(classes.rows.tolist()):
        by_class[task, label] = replay.images[rows == row][:n]
    return dict(sorted(by_class.items()))


@torch.no_grad()
def reconstructions(
    method: Method, images: Tensor, tasks: Tensor, *, seed: int = 0
) -> Tensor | None:
    """Reconstructions of images by a method's generator.

    Args:
        method: The method.
        images: Float tensor (n, *shape).
        tasks: int64 tensor (n,), task labels.
        seed: Seed of random reconstructions.

    Returns:
        Float tensor (n, *shape) on the method's device; ``None`` if the method does not
        reconstruct, or there are no images.
    """
    # Includes `method.rng`, which may draw a seed.
    with method.random.temporary_seed(seed), evaluating(method):
        device = method.rng.device
        outputs = None
        if isinstance(method, Inspectable) and len(images):
            outputs = method.reconstruct(images.to(device), tasks.to(device))
    return outputs if outputs is None or outputs.shape == images.shape else None


@torch.no_grad()
def embedding(method: Method, examples: Examples, *, seed: int = 0) -> NDArray[Any] | None:
    """A two-dimensional t-SNE embedding of the images' latents (Kamra et al. 2017, Fig. 10).

    Args:
        method: The method.
        examples: The images, at least 5.
        seed: Seed of the embedding.

    Returns:
        Float array (n, 2), or ``None`` if the method has no latents, or they are not finite or all
        equal.
    """
    if len(examples.images) < 5 or not isinstance(method, Inspectable):
        return None
    with method.random.temporary_seed(seed), evaluating(method):
        device = method.rng.device
        codes = method.encode(examples.images.to(device), examples.tasks.to(device))
    if codes is None:
        return None
    from sklearn.manifold import TSNE

    values = codes.flatten(1).float().cpu().numpy()
    if values.shape[1] == 1:
        values = np.pad(values, ((0, 0), (0, 1)))
    # scikit-learn's t-SNE crashes if all latents are equal, and raises if they are not finite.
    if not np.isfinite(values).all() or not np.ptp(values, axis=0).any():
        return None
    perplexity = min(30.0, (len(values) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed, max_iter=500)
    return np.asarray(tsne.fit_transform(values))


def mask_shares(method: Method) -> dict[str, list[dict[str, float]]]:
    """Usage of each mask of a dynamic memory after every experience.

    Args:
        method: The method; the result is empty for methods without masks.

    Returns:
        By layer, for each experience the fractions of the mask's entries that it was the first to
        use (``reserved``), that it shares with earlier experiences (``reused``), that only earlier
        experiences use (``held``), and that are unused (``free``).
    """
    memory = getattr(method, "generator", None)
    if not isinstance(memory, MaskedGAN) or memory.shape is None:
        return {}
    by_layer: dict[str, list[dict[str, float]]] = {}
    for use in memory.network.usage():
        width = max(use["width"], 1)
        fractions = {part: use[part] / width for part in ("reserved", "reused", "free")}
        fractions["held"] = 1.0 - sum(fractions.values())
        by_layer.setdefault(use["name"], []).append(fractions)
    return by_layer

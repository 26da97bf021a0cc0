"""Samples, reconstructions and latents of a method, for images; training is not changed."""

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
#: Samples drawn for each one that is shown, as a memory draws classes at random.
_DRAWN_PER_SHOWN = 4


@dataclass
class Examples:
    """A few test images of each class, for images of a dashboard.

    Attributes:
        images: Float tensor (n, *shape).
        labels: int64 tensor (n,).
        tasks: int64 tensor (n,), task labels.
        experiences: int64 tensor (n,), the position in the test stream of the experience of each.
    """

    images: Tensor
    labels: Tensor
    tasks: Tensor
    experiences: Tensor

    def of_experiences(self, positions: Sequence[int]) -> Examples:
        """The images of some test experiences."""
        wanted = torch.tensor(sorted(set(positions)), device=self.experiences.device)
        return self[torch.isin(self.experiences, wanted)]

    def __getitem__(self, some: slice | Tensor) -> Examples:
        """Some of the images, by a slice or a bool tensor (n,)."""
        return Examples(
            self.images[some], self.labels[some], self.tasks[some], self.experiences[some]
        )

    def positions(self) -> set[int]:
        """Positions of the test experiences that the images come from."""
        return set(self.experiences.tolist())

    def classes(self) -> list[Class]:
        """Task labels and classes, in ascending order."""
        return sorted(set(zip(self.tasks.tolist(), self.labels.tolist(), strict=True)))

    def rows_of(self, one: Class) -> Tensor:
        """Indices of a class's images."""
        return ((self.tasks == one[0]) & (self.labels == one[1])).nonzero().flatten()


@torch.no_grad()
def samples(method: Method, n: int, *, n_classes: int, seed: int = 0) -> dict[Class, Tensor]:
    """Samples from a method's memory, by class.

    Args:
        method: The method.
        n: Most samples of each class.
        n_classes: Approximate number of classes that it has learned.
        seed: Seed of the samples.

    Returns:
        A float tensor (k, *shape), k <= n, for each class that was sampled; empty if the method has
        no samples, or latents.
    """
    found: dict[Class, Tensor] = {}
    if isinstance(method, GANMethod):
        memory = method.generator
        for row, (_, task, label) in enumerate(memory.classes.rows[: memory.learned].tolist()):
            found[task, label] = fixed_samples(memory, row, n, seed=seed)
        return dict(sorted(found.items()))
    if not isinstance(method, Inspectable):
        return {}
    with method.random.temporary_seed(seed):
        try:
            replay = method.sample(_DRAWN_PER_SHOWN * n * max(n_classes, 1))
        except UnknownTaskError:  # Some keep no samples.
            return {}
    if isinstance(replay.images, Latents):
        return {}
    classes = ClassTable()
    rows = classes.add(replay.tasks, replay.labels)
    for row, (_, task, label) in enumerate(classes.rows.tolist()):
        found[task, label] = replay.images[rows == row][:n]
    return dict(sorted(found.items()))


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
    # Aside from the first question on: even to ask where it computes may draw a seed.
    with method.random.temporary_seed(seed), evaluating(method):
        device = method.rng.device
        made = None
        if isinstance(method, Inspectable) and len(images):
            made = method.reconstruct(images.to(device), tasks.to(device))
    return made if made is None or made.shape == images.shape else None


@torch.no_grad()
def embedding(method: Method, examples: Examples, *, seed: int = 0) -> NDArray[Any] | None:
    """Latents of images in two dimensions, by t-SNE (Kamra et al. 2017, Fig. 10).

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
    # scikit-learn's t-SNE crashes on equal latents, and refuses those that are not finite.
    if not np.isfinite(values).all() or not np.ptp(values, axis=0).any():
        return None
    perplexity = min(30.0, (len(values) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed, max_iter=500)
    return np.asarray(tsne.fit_transform(values))


def mask_shares(method: Method) -> dict[str, list[dict[str, float]]]:
    """Use of each mask of a dynamic memory by every experience.

    Args:
        method: The method; the result is empty for methods without masks.

    Returns:
        By layer, for each experience the shares of the mask's entries that it was the first to use
        (``reserved``), shares with earlier ones (``reused``), that only earlier ones use
        (``held``), and that no one uses (``free``).
    """
    memory = getattr(method, "generator", None)
    if not isinstance(memory, MaskedGAN) or memory.shape is None:
        return {}
    found: dict[str, list[dict[str, float]]] = {}
    for use in memory.network.usage():
        width = max(use["width"], 1)
        shares = {part: use[part] / width for part in ("reserved", "reused", "free")}
        shares["held"] = 1.0 - sum(shares.values())
        found.setdefault(use["name"], []).append(shares)
    return found

"""How good the samples are that a memory makes of each class it learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.checks import whole
from avalanche_dgm.errors import ConfigError, LabelError, ShapeError, UnknownTaskError
from avalanche_dgm.fitting import OptimizerSpec, Phase, epochs_to_steps, fit
from avalanche_dgm.generators.discriminators import build_discriminator
from avalanche_dgm.generators.gan import GAN
from avalanche_dgm.generators.ranges import intensity_range
from avalanche_dgm.generators.scaler import Scaler
from avalanche_dgm.metrics.frechet import extract_features, frechet_distance
from avalanche_dgm.randomness import RandomSource

#: Features of a reference: few, so that a few hundred samples say how they vary together.
N_FEATURES = 64
_BATCH = 64
#: Fewer steps leave the running means of a small set's normalisations behind.
_LEAST_STEPS = 150
_LEAK = 0.2


def memory_of(method: Any) -> GAN:
    """The memory of a method with a generative adversarial network, or of its plugin or module.

    Raises:
        ConfigError: It is no such method.
    """
    memory = getattr(getattr(method, "method", method), "generator", None)
    if not isinstance(memory, GAN):
        raise ConfigError(
            f"A {type(method).__name__} has no adversarial generator. What can be looked at are the"
            " methods that have one, such as DynamicMemory, their plugins and modules."
        )
    return memory


def fixed_samples(memory: GAN, row: int, n: int, *, seed: int = 0) -> Tensor:
    """Samples (n, *shape) of one class, a row of ``memory.classes.rows``, in the user's units.

    They are of the same noise whenever a seed is given again. It is no part of the memory's random
    numbers, which stay as they are.
    """
    device = memory.classes.rows.device
    rng = torch.Generator(device=device).manual_seed((seed * 1_000_003 + row) % 2**63)
    rows = torch.full((n,), row, device=device)
    return memory.sample(rows, rng)


class Reference(nn.Module):
    """A classifier of real samples whose features judge generated ones; see `train_reference`.

    Args:
        scaler: What scales and pads samples.
        n_classes: Number of logits.
    """

    def __init__(self, scaler: Scaler, n_classes: int) -> None:
        super().__init__()
        self.scaler = scaler
        architecture = "dense" if len(scaler.shape) == 1 else "dcgan"
        discriminator = build_discriminator(architecture, scaler.padded)
        narrow = nn.Linear(discriminator.class_head.in_features, N_FEATURES)
        self.trunk = nn.Sequential(discriminator.trunk, narrow, nn.LeakyReLU(_LEAK))
        self.head = nn.Linear(N_FEATURES, n_classes)

    def features(self, images: Tensor) -> Tensor:
        """Features (n, 64) of samples (n, *shape), in the user's units."""
        return self.trunk(self.scaler.transform(images))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, n_classes) of samples (n, *shape); a column is a label."""
        return self.head(self.features(images))


def train_reference(
    images: Tensor, labels: Tensor, *, epochs: int = 3, seed: int = 0, progress: bool = False
) -> Reference:
    """Trains a small classifier on real samples, by which generated ones are judged.

    Args:
        images: Float tensor (N, C, H, W) of any size, or (N, D).
        labels: int64 tensor (N,).
        epochs: Passes over them; of few samples as many more as make 150 steps.
        seed: Of its initial weights and the order of the samples; no other random numbers change.
        progress: Whether to show a bar on standard error.

    Returns:
        The classifier, in evaluation mode, on the device of the samples.

    Raises:
        ConfigError: ``epochs`` is below 1.
        ShapeError: The samples are neither images nor flat, or not as many as labels.
    """
    _check_samples(images, labels)
    whole("epochs", epochs)
    random = RandomSource(seed)
    shape = tuple(int(side) for side in images.shape[1:])
    with random.seeded_init():
        scaler = Scaler(shape, *intensity_range(images, None))
        reference = Reference(scaler, int(labels.max()) + 1)
    reference.to(images.device)

    def loss(batch: tuple[Tensor, ...], rng: torch.Generator) -> Tensor:
        return F.cross_entropy(reference(batch[0]), batch[1])

    steps = max(epochs_to_steps(epochs, len(images), _BATCH), _LEAST_STEPS)
    optimizer = OptimizerSpec("adam", 2e-3, "cosine")
    phase = Phase("reference", reference, loss, optimizer, steps, _BATCH, (images, labels))
    fit(phase, random.on(images.device), progress=progress)
    return reference.eval()


@dataclass(frozen=True)
class Quality:
    """What `GeneratorQuality` measured, of the classes learned so far.

    Attributes:
        fid: Frechet distance of all classes together, 0 or more; less is better.
        fid_per_class: The same of each class alone.
        generated_accuracy: Share of generated samples that the reference takes for their class.
        accuracy_per_class: The same of each class alone.
    """

    fid: float
    fid_per_class: dict[int, float]
    generated_accuracy: float
    accuracy_per_class: dict[int, float]


class GeneratorQuality:
    """Compares the samples that a memory generates with real ones.

    The Frechet distance (FID, see `FrechetDistance`) is one of features of a small classifier of
    the same data unless others are given: nothing is downloaded. **Distances with other features,
    or of other numbers of samples, cannot be compared**, neither with each other nor with those in
    papers, which have features of an Inception network. The covariance of F features needs well
    over F samples, better ten times as many: with fewer the distance is too large, and falls as
    samples are added. The 64 features of the reference need some hundred samples per class.

    ``generated_accuracy`` is the measure of Wu et al. (2018): a classifier that learned *real*
    samples of all classes says how many *generated* ones it takes for what they should be. It sees
    no forgetting in a classifier and no lack of variety in a generator. A5 and A10 of dynamic
    generative memory (Ostapenko et al. 2019) are the accuracy on *real* test samples of a
    classifier that learned the classes one after the other; published tables mix the two.

    A class is a label: where several tasks have it, it is judged over all of them.

    Args:
        images: Float tensor (N, C, H, W) or (N, D), real samples of all classes to come, two or
            more of each, as the memory learns them or held out. Only their features are kept.
        labels: int64 tensor (N,).
        features: From samples (n, *shape) in the user's units to features (n, F); ``None`` for the
            reference's. A module is asked in evaluation mode.
        reference: From samples to logits (n, K), a column a label; ``None`` to train one, see
            `train_reference`. One without ``features`` of its own needs ``features``.
        n_per_class: Most real samples of a class, the first ones. As many are generated.
        seed: Of the noise, which is the same in each measurement, and of the reference.

    Raises:
        ConfigError: ``n_per_class`` is below 2, or there are no features.
        LabelError: A class has a single sample.
        ShapeError: The samples are neither images nor flat, or not as many as labels, or the
            features are not (n, F).
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        features: Callable[[Tensor], Tensor] | None = None,
        reference: Callable[[Tensor], Tensor] | None = None,
        n_per_class: int = 1000,
        seed: int = 0,
    ) -> None:
        _check_samples(images, labels)
        for name, given in (("features", features), ("reference", reference)):
            if given is not None and not callable(given):
                raise ConfigError(
                    f"{name}={given!r} cannot be called. Give a function or module from images"
                    " (n, *shape) to a tensor (n, F), a network without its last layer for example."
                )
        whole("n_per_class", n_per_class, least=2)
        self.seed = seed
        of_class = {c: images[labels == c][:n_per_class] for c in labels.unique().tolist()}
        few = [str(c) for c, samples in of_class.items() if len(samples) < 2]
        if few:
            raise LabelError(
                f"There is a single real sample of class {', '.join(few)}, and how samples vary"
                " needs two or more of each."
            )
        if reference is None:
            reference = train_reference(images, labels, seed=seed)
        self.reference = reference
        self._describe = features if features is not None else _features_of(reference)
        self._shape, self._device = images.shape[1:], images.device
        self._real = {c: extract_features(self._describe, x) for c, x in of_class.items()}

    def measure(self, method: Any) -> Quality:
        """Generates samples of each class learned so far and compares them.

        The method's random numbers, and all others, stay as they are.

        Args:
            method: A method with a generator that a discriminator trained, or its plugin or module.

        Raises:
            ConfigError: It is another method.
            LabelError: A class was learned of which there are no real samples.
            ShapeError: Generated samples have another shape than real ones.
            UnknownTaskError: Nothing was learned yet.
        """
        memory = memory_of(method)
        if not memory.learned:
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        rows: dict[int, list[int]] = {}
        for row, label in enumerate(memory.classes.rows[: memory.learned, 2].tolist()):
            rows.setdefault(label, []).append(row)
        unknown = sorted(set(rows) - set(self._real))
        if unknown:
            raise LabelError(
                f"Class {', '.join(map(str, unknown))} was learned, and there are no real samples"
                " of it to compare with. Give GeneratorQuality samples of all classes."
            )
        made, right = {}, {}
        for label, mine in rows.items():
            real = self._real[label]
            samples = self._generate(memory, mine, len(real))
            made[label] = extract_features(self._describe, samples)
            right[label] = extract_features(self.reference, samples).argmax(dim=1) == label
        known = torch.cat([self._real[label] for label in rows])
        return Quality(
            fid=frechet_distance(known, torch.cat(list(made.values()))),
            fid_per_class={c: frechet_distance(self._real[c], made[c]) for c in rows},
            generated_accuracy=_share(torch.cat(list(right.values()))),
            accuracy_per_class={c: _share(right[c]) for c in rows},
        )

    def _generate(self, memory: GAN, rows: list[int], n: int) -> Tensor:
        """Samples (n, *shape) of a class, as many of each task that has it."""
        counts = [n // len(rows) + (i < n % len(rows)) for i in range(len(rows))]
        parts = [
            fixed_samples(memory, row, count, seed=self.seed)
            for row, count in zip(rows, counts, strict=True)
            if count
        ]
        if parts[0].shape[1:] != self._shape:
            raise ShapeError(
                f"The memory makes samples of shape {tuple(parts[0].shape[1:])}, and the real ones"
                f" to compare with are of shape {tuple(self._shape)}."
            )
        return torch.cat(parts).to(self._device)


def _share(right: Tensor) -> float:
    return float(right.double().mean())


def _features_of(reference: Any) -> Callable[[Tensor], Tensor]:
    features = getattr(reference, "features", None)
    if not callable(features) or isinstance(features, nn.Module):
        raise ConfigError(
            f"The reference, a {type(reference).__name__}, has no method features(images). Give"
            " features as well, a function from samples (n, *shape) to (n, F)."
        )
    return features


def _check_samples(images: Tensor, labels: Tensor) -> None:
    if images.ndim not in (2, 4) or labels.shape != images.shape[:1] or not len(images):
        raise ShapeError(
            "Real samples must be (N, C, H, W) or (N, D), and labels (N,), not"
            f" {tuple(images.shape)} and {tuple(labels.shape)}."
        )

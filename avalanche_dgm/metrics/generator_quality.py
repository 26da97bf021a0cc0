"""The quality of a memory's generated samples, by class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.checks import whole
from avalanche_dgm.errors import ConfigError, LabelError, ShapeError, UnknownTaskError
from avalanche_dgm.fitting import Phase, epochs_to_steps, fit
from avalanche_dgm.generators.discriminators import build_discriminator
from avalanche_dgm.generators.gan import GAN
from avalanche_dgm.generators.ranges import intensity_range
from avalanche_dgm.generators.scaler import Scaler
from avalanche_dgm.metrics.frechet import extract_features, frechet_distance
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.randomness import RandomSource

#: Features of a reference; few, so that a few hundred samples suffice for their covariance.
N_FEATURES = 64
_BATCH = 64
#: With fewer steps on a small set, BatchNorm's running means have not converged.
_LEAST_STEPS = 150
_LEAK = 0.2


def memory_of(method: Any) -> GAN:
    """The GAN of a method, its plugin or LightningModule; a `ConfigError` if there is none."""
    memory = getattr(getattr(method, "method", method), "generator", None)
    if not isinstance(memory, GAN):
        raise ConfigError(
            f"A {type(method).__name__} has no adversarial generator. Pass a method that has one,"
            " such as DynamicMemory, or its plugin or module."
        )
    return memory


def fixed_samples(memory: GAN, row: int, n: int, *, seed: int = 0) -> Tensor:
    """Samples (n, *shape) of one class, a row of ``memory.classes.rows``, in the user's units.

    Equal seeds give equal noise. The memory's random state is not changed.
    """
    device = memory.classes.rows.device
    rng = torch.Generator(device=device).manual_seed((seed * 1_000_003 + row) % 2**63)
    rows = torch.full((n,), row, device=device)
    return memory.sample(rows, rng)


class Reference(nn.Module):
    """A classifier of real samples that evaluates generated samples; see `train_reference`.

    Args:
        scaler: Scales and pads samples.
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
        """Logits (n, n_classes) of samples (n, *shape)."""
        return self.head(self.features(images))


def train_reference(
    images: Tensor, labels: Tensor, *, epochs: int = 3, seed: int = 0, progress: bool = False
) -> Reference:
    """Trains a small classifier on real samples, to evaluate generated samples.

    Args:
        images: Float tensor (N, C, H, W) of any size, or (N, D).
        labels: int64 tensor (N,).
        epochs: Number of epochs; for few samples, more until there are 150 steps.
        seed: Seed of the initial weights and the order of the samples; global random states are not
            changed.
        progress: Whether to show a progress bar on standard error.

    Returns:
        The classifier, in evaluation mode, on the device of the samples.

    Raises:
        ConfigError: ``epochs`` is below 1.
        ShapeError: The samples are neither images nor flat, or their number is not that of labels.
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
    """The result of `GeneratorQuality`, for the classes learned so far.

    Attributes:
        fid: Frechet distance over all classes, at least 0; less is better.
        fid_per_class: Frechet distance of each class.
        generated_accuracy: Accuracy of the reference on generated samples, 0 to 1.
        accuracy_per_class: Accuracy of the reference on generated samples of each class.
    """

    fid: float
    fid_per_class: dict[int, float]
    generated_accuracy: float
    accuracy_per_class: dict[int, float]


class GeneratorQuality:
    """Compares a memory's generated samples with real samples.

    The Frechet distance (FID, see `FrechetDistance`) uses by default the features of a small
    classifier of the same data; nothing is downloaded. **Distances with different features or
    numbers of samples cannot be compared**, in particular not with published values, which use an
    Inception network. The covariance of F features needs well over F samples, better ten times as
    many: with fewer the distance is too large, and falls with more samples. The 64 features of the
    reference need some hundred samples per class.

    ``generated_accuracy`` is the measure of Wu et al. (2018): the accuracy on *generated* samples
    of a classifier trained on *real* samples of all classes. It measures neither forgetting in a
    classifier nor the diversity of a generator. A5 and A10 of dynamic generative memory (Ostapenko
    et al. 2019) are the accuracy on *real* test samples of a classifier that learned the classes
    incrementally; published tables mix the two.

    Classes are labels; a label of several tasks is evaluated over all of them.

    Args:
        images: Float tensor (N, C, H, W) or (N, D), real samples of all classes of the stream, at
            least two per class, from training or held out. Only their features are stored.
        labels: int64 tensor (N,).
        features: From samples (n, *shape) in the user's units to features (n, F); ``None`` for the
            reference's. A module is evaluated in evaluation mode.
        reference: From samples to logits (n, K), with labels as columns; ``None`` to train one, see
            `train_reference`. Without a method ``features``, it needs the argument ``features``.
        n_per_class: Maximum number of real samples per class, the first ones. The same number is
            generated.
        seed: Seed of the noise, which is the same in each measurement, and of the reference.

    Raises:
        ConfigError: ``n_per_class`` is below 2, or there are no features.
        LabelError: A class has a single sample.
        ShapeError: The samples are neither images nor flat, their number is not that of labels, or
            the features are not (n, F).
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
                    f"{name}={given!r} cannot be called. Pass a function or module from images"
                    " (n, *shape) to a tensor (n, F), such as a network without its last layer."
                )
        whole("n_per_class", n_per_class, least=2)
        self.seed = seed
        of_class = {c: images[labels == c][:n_per_class] for c in labels.unique().tolist()}
        few = [str(c) for c, samples in of_class.items() if len(samples) < 2]
        if few:
            raise LabelError(
                f"There is only one real sample of class {', '.join(few)}; at least two per class"
                " are needed."
            )
        if reference is None:
            reference = train_reference(images, labels, seed=seed)
        self.reference = reference
        self._describe = features if features is not None else _features_of(reference)
        self._shape, self._device = images.shape[1:], images.device
        self._real = {c: extract_features(self._describe, x) for c, x in of_class.items()}

    def measure(self, method: Any) -> Quality:
        """Evaluates generated samples of each learned class; random states are not changed.

        Args:
            method: A method with a GAN, or its plugin or module.

        Raises:
            ConfigError: The method has no GAN.
            LabelError: There are no real samples of a learned class.
            ShapeError: Generated and real samples have different shapes.
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
                f"Class {', '.join(map(str, unknown))} was learned, but there are no real samples"
                " of it to compare with. Give GeneratorQuality samples of all classes."
            )
        generated, correct = {}, {}
        for label, rows_of_label in rows.items():
            samples = self._generate(memory, rows_of_label, len(self._real[label]))
            generated[label] = extract_features(self._describe, samples)
            correct[label] = extract_features(self.reference, samples).argmax(dim=1) == label
        real = torch.cat([self._real[label] for label in rows])
        return Quality(
            fid=frechet_distance(real, torch.cat(list(generated.values()))),
            fid_per_class={c: frechet_distance(self._real[c], generated[c]) for c in rows},
            generated_accuracy=_accuracy(torch.cat(list(correct.values()))),
            accuracy_per_class={c: _accuracy(correct[c]) for c in rows},
        )

    def _generate(self, memory: GAN, rows: list[int], n: int) -> Tensor:
        """Samples (n, *shape) of a class, the same number for each of its tasks."""
        counts = [n // len(rows) + (i < n % len(rows)) for i in range(len(rows))]
        parts = [
            fixed_samples(memory, row, count, seed=self.seed)
            for row, count in zip(rows, counts, strict=True)
            if count
        ]
        if parts[0].shape[1:] != self._shape:
            raise ShapeError(
                f"The memory generates samples of shape {tuple(parts[0].shape[1:])}, but the real"
                f" samples to compare with have shape {tuple(self._shape)}."
            )
        return torch.cat(parts).to(self._device)


def _accuracy(correct: Tensor) -> float:
    return float(correct.double().mean())


def _features_of(reference: Any) -> Callable[[Tensor], Tensor]:
    features = getattr(reference, "features", None)
    if not callable(features) or isinstance(features, nn.Module):
        raise ConfigError(
            f"The reference, a {type(reference).__name__}, has no method features(images). Also"
            " pass features, a function from samples (n, *shape) to (n, F)."
        )
    return features


def _check_samples(images: Tensor, labels: Tensor) -> None:
    if images.ndim not in (2, 4) or labels.shape != images.shape[:1] or not len(images):
        raise ShapeError(
            "Real samples must be (N, C, H, W) or (N, D), and labels (N,), not"
            f" {tuple(images.shape)} and {tuple(labels.shape)}."
        )

"""A variational autoencoder that learns one experience after the other.

Kamra et al. 2017 sample the prior and train on generated images as if they were data (``sampling=
"prior"``, ``consolidation="rehearsal"``). By default latents are drawn from a density fitted to
each class, and the decoder is aligned with the previous one on latents of old classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from avalanche_dgm.checks import one_of
from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import ConfigError, required
from avalanche_dgm.fitting import Phase, epochs_to_steps
from avalanche_dgm.generators.base import (
    DENSITIES,
    Generator,
    Known,
    VAESettings,
    check_default_type,
)
from avalanche_dgm.generators.density import ClassDensity, make_density
from avalanche_dgm.generators.ranges import check_variety
from avalanche_dgm.generators.vae import VAE, VAESpec, check_images, choose_spec
from avalanche_dgm.modules import copied, in_chunks
from avalanche_dgm.settings import make_settings

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Latents drawn of each old class when its density is refitted.
REFIT_SAMPLES = 512


class VAEGenerator(Generator):
    """An autoencoder, and a density over the latents of each class.

    Args:
        settings: Hyper-parameters; ``None`` for the defaults.
        **changes: Fields of `VAESettings` that replace those of ``settings``.

    Attributes:
        network: The autoencoder, or ``None`` before the first experience.
        density: The density of each class's latents.
    """

    spec_type: ClassVar = VAESpec
    network: VAE | None

    def __init__(self, settings: VAESettings | None = None, **changes: Any) -> None:
        super().__init__()
        self.settings = settings = make_settings(VAESettings, changes, base=settings)
        self.conditional = settings.sampling == "class"
        self.rehearses = settings.consolidation == "rehearsal"
        self.network = None
        self.density = ClassDensity(components=settings.components, tied="component")
        self.classes = self.density.classes
        #: The specification that `adapt_to` derived.
        self._adapted: VAESpec | None = None

    def check(self, data: ExperienceData) -> None:
        """See `Generator.check`.

        Raises:
            ShapeError: The images' shape has changed.
            RangeError: The generator cannot produce or learn their intensities.
            ConfigError: PyTorch's default type is not float32.
        """
        check_default_type()
        if self.settings.value_range is None:
            check_variety(data.images, first=self.spec is None)
        self._check(data.images)

    def _check(self, samples: Tensor) -> None:
        known = self.spec or self._adapted
        if known is None:
            self._spec_for(samples)
        else:
            check_images(known, samples, given=self.settings.value_range is not None)

    def build(self, samples: Tensor) -> None:
        """See `Generator.build`; checks later samples against the first ones, as `check` does."""
        self._check(samples)
        super().build(samples)

    def _spec_for(self, samples: Tensor) -> VAESpec:
        return self._adapted or choose_spec(samples, self.settings)

    def make_networks(self, shape: tuple[int, ...]) -> None:
        self.network = VAE(self.spec)

    def adapt_to(self, larger: Generator) -> None:
        """Copies range and likelihood and, unless given, the widths and the latent size."""
        if isinstance(larger, VAEGenerator) and larger.spec is not None:
            spec, s = larger.spec, self.settings
            hidden, latent = s.hidden or spec.hidden, s.latent or spec.latent
            self._adapted = replace(spec, hidden=hidden, latent=latent)

    def _built(self) -> VAE:
        return required(self.network, "network", "build")

    # Learning

    def fit(self, samples: Tensor, rows: Tensor, rng: torch.Generator) -> Iterator[Phase]:
        yield self._phase(samples, None, 1.0)
        self._fit_densities(samples, rows, merge=False)

    def learn(
        self, data: ExperienceData, rng: torch.Generator, **known: Unpack[Known]
    ) -> Iterator[Phase]:
        """See `Generator.learn`; fits the densities of the latents after the last phase."""
        previous, share = known.get("previous"), known.get("share")
        before = previous if isinstance(previous, VAEGenerator) and len(previous.classes) else None
        samples = data.images
        if self.rehearses:
            old = self._old(data, rng, known)
            samples = torch.cat([samples, old[0]]) if old is not None else samples
        if share is None and before is not None:
            share = len(data.pairs) / (len(data.pairs) + len(before.classes))
        yield self._phase(samples, None if self.rehearses else before, share or 1.0)
        if before is not None and self.rehearses:
            self._refit(before, rng)
        rows = self._add_classes(data, known.get("groups"))
        # Merging is valid, as latents of old classes were aligned or refitted.
        self._fit_densities(data.images, rows, merge=before is not None)

    def _phase(self, samples: Tensor, previous: VAEGenerator | None, share: float) -> Phase:
        s, network = self.settings, self._built()

        def loss(batch: tuple[Tensor, ...], rng: torch.Generator) -> Tensor:
            if previous is None:
                return network.negative_elbo(batch[0], rng, kl_weight=s.kl_weight).mean()
            rows = previous.classes.balanced(s.batch_size, rng)
            codes, images = previous.codes_and_samples(rows, rng)
            # The decoding loss aligns the decoder, the bound the encoder. Each has every other
            # sample, so that both have all classes.
            decoding = network.decoding_loss(codes[::2], images[::2]).mean()
            together = torch.cat([batch[0], images[1::2]])
            bounds = network.negative_elbo(together, rng, kl_weight=s.kl_weight)
            new, bound = bounds.split([len(batch[0]), len(together) - len(batch[0])])
            return share * new.mean() + (1 - share) * 0.5 * (decoding + bound.mean())

        size, n = s.batch_size, len(samples)
        steps = epochs_to_steps(s.generator_epochs, n, size, otherwise=s.generator_steps)
        return Phase("generator", network, loss, s.generator_optimizer, steps, size, (samples,))

    @torch.no_grad()
    def _refit(self, previous: VAEGenerator, rng: torch.Generator) -> None:
        """Fits the densities of old classes to the new latents of their generated images."""
        device = previous.classes.rows.device
        for row, count in enumerate(previous.density.seen.tolist()):
            rows = torch.full((REFIT_SAMPLES,), row, device=device)
            images = previous._built().decode(previous.density.sample(rows, rng))
            self._fit_densities(images, rows, merge=False, count=count)

    @torch.no_grad()
    def _fit_densities(
        self, samples: Tensor, rows: Tensor, *, merge: bool, count: int | None = None
    ) -> None:
        """Fits densities to the aggregate posteriors of classes."""
        network = self._built()
        encoded = in_chunks(lambda part: torch.stack(network.encode(part), dim=1), samples)
        means, log_variances = encoded.unbind(dim=1)
        variances = log_variances.double().exp()
        self.density.update(means, rows, variances=variances, merge=merge, count=count)

    # Sampling

    @torch.no_grad()
    def codes_and_samples(self, rows: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Generates latents and decodes them to samples.

        Args:
            rows: int64 tensor (n,), as in `sample`.
            rng: Random number generator on the network's device.

        Returns:
            Latents (n, latent) and samples (n, *shape).
        """
        network = self._built()
        if self.conditional:
            codes = self.density.sample(rows, rng)
        else:
            latent, device = network.spec.latent, network.low.device
            codes = torch.randn(len(rows), latent, generator=rng, device=device)
        return codes, network.decode(codes)

    def sample(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        return self.codes_and_samples(rows, rng)[1]

    @torch.no_grad()
    def score(self, samples: Tensor) -> Tensor:
        """The negative evidence lower bound at the posterior's mean."""
        return self._built().negative_elbo(samples)

    def encode(self, samples: Tensor) -> Tensor | None:
        """Means of the posterior."""
        return self.network.encode(samples)[0] if self.network is not None else None

    def reconstruct(self, samples: Tensor) -> Tensor | None:
        """The decoded means of the posterior."""
        return self.network.reconstruct(samples) if self.network is not None else None

    def bytes_of(self, n_classes: int, d: int) -> int:
        density, latent = self.density, self._built().spec.latent
        more = density.bytes_of(n_classes, latent) - density.bytes_of(len(self.classes), latent)
        return super().bytes_of(n_classes, d) + more

    def _restore(self, state: dict[str, Any]) -> None:
        self.network = None if state["spec"] is None else self.network
        super()._restore(state)


def make_generator(generator: Generator | str, settings: VAESettings) -> Generator:
    """Makes the generator of a memory.

    Args:
        generator: An untrained generator, which is copied; ``"vae"``; or the name of a density, see
            `make_density`.
        settings: Settings of the autoencoder.

    Raises:
        ConfigError: There is no such name, or the generator is trained already.
    """
    if isinstance(generator, str):
        one_of("generator", generator, "vae", *DENSITIES)
        if generator == "vae":
            return VAEGenerator(settings.part(VAESettings))
        return make_density(generator)
    if not isinstance(generator, Generator):
        raise ConfigError(
            f"generator={generator!r} is no Generator: give an instance of a subclass of"
            " avalanche_dgm.generators.Generator, or 'vae'."
        )
    if len(generator.classes):
        raise ConfigError(
            f"The {type(generator).__name__} has learned {len(generator.classes)} classes already."
            " Give an untrained one."
        )
    return copied(generator)

"""The Frechet distance of real and generated samples, with any features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from avalanche_dgm.checks import whole
from avalanche_dgm.errors import ShapeError
from avalanche_dgm.modules import evaluating, in_chunks


class _Given(nn.Module):
    """Stands in for a network of torchmetrics where its features are computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class FrechetDistance(FrechetInceptionDistance):
    """The Frechet distance of real and generated samples (Heusel et al. 2017).

    That of two Gaussians with the means m and covariances C of the features of both:
    ``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))``, computed by torchmetrics in double precision.
    Nothing is downloaded, and samples may have any size and any range of intensities. What may be
    compared, and how many samples are needed, is told in `GeneratorQuality`.

    Args:
        features: From samples (n, *shape) to features (n, F). A module is asked in evaluation mode
            and moves with the metric; ``None`` takes the intensities themselves.
        n_features: F; ``None`` asks ``features.num_features``. Needed beforehand, as a process may
            have no sample of a kind. Of plain intensities it is their number in a sample.
        **kwargs: Also ``reset_real_features``: whether a reset forgets the real samples, too (as it
            does by default).

    Raises:
        ConfigError: ``n_features`` is missing or below 1.
    """

    def __init__(
        self,
        features: Callable[[Tensor], Tensor] | nn.Module | None = None,
        *,
        n_features: int | None = None,
        **kwargs: Any,
    ) -> None:
        known: Any = getattr(features, "num_features", None) if n_features is None else n_features
        whole("n_features", known, otherwise=", or features.num_features be one")
        # What torchmetrics is given are features: it must not scale them as it scales bytes.
        super().__init__(feature=_Given(known), normalize=True, **kwargs)
        self.features = features
        self.n_features = known
        # A process may be asked for the distance before it has seen a sample.
        self.orig_dtype = torch.float64

    def update(self, samples: Tensor, real: bool) -> None:
        """Adds a batch.

        Args:
            samples: Float tensor (n, *shape), n from 0 on.
            real: Whether they are real, or generated.

        Raises:
            ShapeError: Their features are not (n, n_features).
        """
        network = self.features
        found = samples.flatten(1) if network is None else extract_features(network, samples)
        if found.shape != (len(samples), self.n_features):
            raise ShapeError(
                f"Samples of shape {tuple(samples.shape)} have features of shape"
                f" {tuple(found.shape)}, and n_features={self.n_features} asks for"
                f" {(len(samples), self.n_features)}."
            )
        super().update(found.detach().double(), real=real)

    def compute(self) -> Tensor:
        """Returns a scalar from 0 on, less is better; NaN below two samples of either kind."""
        if self.real_features_num_samples < 2 or self.fake_features_num_samples < 2:
            return self.real_features_sum.new_tensor(torch.nan)
        # Rounding may leave something below 0 of equal sets.
        return super().compute().clamp(min=0)


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """The Frechet distance, from 0 on, of features (n, F) and (m, F); n and m at least 2."""
    # All that there is was given: of several processes the others may be elsewhere.
    metric = FrechetDistance(n_features=real.shape[1], sync_on_compute=False)
    # On the CPU: eigenvalues of a few features are faster there, and the same everywhere.
    metric.update(real.cpu(), real=True)
    metric.update(generated.cpu(), real=False)
    return float(metric.compute())


@torch.no_grad()
def extract_features(network: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """What a network says of samples, a chunk at a time, in evaluation mode, on its device.

    Args:
        network: From samples to features or logits; a module, a method of one, or a function.
        samples: Float tensor (n, *shape).

    Returns:
        Tensor (n, K).

    Raises:
        ShapeError: The network answers with something else.
    """
    owner = getattr(network, "__self__", network)
    module = owner if isinstance(owner, nn.Module) else None
    weights = iter(()) if module is None else module.parameters()
    device = next((weight.device for weight in weights), samples.device)
    with evaluating(module):
        said = in_chunks(network, samples.to(device))
    if said.ndim != 2 or len(said) != len(samples):
        raise ShapeError(
            f"Features and logits must be (n, K), but those of {len(samples)} samples are of shape"
            f" {tuple(said.shape)}."
        )
    return said

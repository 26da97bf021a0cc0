"""The Frechet distance between real and generated samples, with any features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from avalanche_dgm.checks import whole
from avalanche_dgm.errors import ShapeError
from avalanche_dgm.modules import evaluating, in_chunks


class _Identity(nn.Module):
    """Replaces torchmetrics' feature network, as features are computed beforehand."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class FrechetDistance(FrechetInceptionDistance):
    """The Frechet distance between real and generated samples (Heusel et al. 2017).

    That of two Gaussians with the means m, m' and covariances C, C' of the features:
    ``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))``, computed by torchmetrics in double precision.
    Nothing is downloaded, and samples may have any size and range of intensities. See
    `GeneratorQuality` for which distances can be compared, and how many samples are needed.

    Args:
        features: From samples (n, *shape) to features (n, F). A module is evaluated in evaluation
            mode and moves with the metric; ``None`` uses the intensities.
        n_features: F; by default ``features.num_features``. For intensities, their number per
            sample. Needed in advance, as a process may have no real or no generated sample.
        **kwargs: Also ``reset_real_features``: whether a reset includes the real samples (the
            default).

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
        size: Any = getattr(features, "num_features", None) if n_features is None else n_features
        whole("n_features", size, otherwise=", or features.num_features be one")
        # torchmetrics must not scale features as it scales bytes.
        super().__init__(feature=_Identity(size), normalize=True, **kwargs)
        self.features = features
        self.n_features = size
        # Otherwise missing in a process without samples.
        self.orig_dtype = torch.float64

    def update(self, samples: Tensor, real: bool) -> None:
        """Adds a batch.

        Args:
            samples: Float tensor (n, *shape), n at least 0.
            real: Whether the samples are real rather than generated.

        Raises:
            ShapeError: The features are not (n, n_features).
        """
        network = self.features
        features = samples.flatten(1) if network is None else extract_features(network, samples)
        if features.shape != (len(samples), self.n_features):
            raise ShapeError(
                f"Samples of shape {tuple(samples.shape)} have features of shape"
                f" {tuple(features.shape)}, but n_features={self.n_features} requires"
                f" {(len(samples), self.n_features)}."
            )
        super().update(features.detach().double(), real=real)

    def compute(self) -> Tensor:
        """Returns a scalar, at least 0, less is better; NaN below two samples of either kind."""
        if self.real_features_num_samples < 2 or self.fake_features_num_samples < 2:
            return self.real_features_sum.new_tensor(torch.nan)
        # For equal sets, rounding errors may give a negative value.
        return super().compute().clamp(min=0)


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """The Frechet distance, at least 0, of features (n, F) and (m, F); n and m at least 2."""
    # The samples are complete, and other processes may not call this: no synchronisation.
    metric = FrechetDistance(n_features=real.shape[1], sync_on_compute=False)
    # On the CPU: eigenvalues of few features are faster there, and do not depend on the device.
    metric.update(real.cpu(), real=True)
    metric.update(generated.cpu(), real=False)
    return float(metric.compute())


@torch.no_grad()
def extract_features(network: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """A network's outputs (n, K) for samples (n, *shape), in evaluation mode, on its device.

    The network is a module, a method of one, or a function, and is called with chunks of samples.

    Raises:
        ShapeError: The output has another shape.
    """
    owner = getattr(network, "__self__", network)
    module = owner if isinstance(owner, nn.Module) else None
    weights = iter(()) if module is None else module.parameters()
    device = next((weight.device for weight in weights), samples.device)
    with evaluating(module):
        outputs = in_chunks(network, samples.to(device))
    if outputs.ndim != 2 or len(outputs) != len(samples):
        raise ShapeError(
            f"Features and logits must be (n, K), but those of {len(samples)} samples have shape"
            f" {tuple(outputs.shape)}."
        )
    return outputs

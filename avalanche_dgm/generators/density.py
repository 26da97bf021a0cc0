"""Class-conditional density over a generator's latent codes."""

from __future__ import annotations

import torch
from torch import Tensor

from avalanche_dgm.modules import GrowingBuffers

#: Count, mean (D,) and covariance (D, D).
Moments = tuple[int, Tensor, Tensor]


class ClassDensity(GrowingBuffers):
    """One full-covariance Gaussian for each (task, class) that was learned.

    Fitted to the aggregate posterior: mean of the encodings, and their covariance plus the mean
    posterior variance. Codes drawn from it decode to images of a known class, where codes drawn
    from the prior may fall between classes.

    Args:
        latent: Number of latent dimensions z.

    Attributes:
        entries: int64 tensor (K, 3): task index, task label, class.
        seen: int64 tensor (K,), samples that each was fitted to.
        means: Float tensor (K, z).
        factors: Float tensor (K, z, z), lower Cholesky factors of the covariances.
    """

    entries: Tensor
    seen: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.register_buffer("entries", torch.empty(0, 3, dtype=torch.int64))
        self.register_buffer("seen", torch.empty(0, dtype=torch.int64))
        self.register_buffer("means", torch.empty(0, latent))
        self.register_buffer("factors", torch.empty(0, latent, latent))

    def __len__(self) -> int:
        return len(self.entries)

    @torch.no_grad()
    def fit(
        self,
        entry: tuple[int, int, int],
        mean: Tensor,
        log_variance: Tensor,
        *,
        join: bool = False,
        count: int | None = None,
    ) -> None:
        """Learns one class, or learns it anew.

        Args:
            entry: Task index, task label, class.
            mean: Posterior means (n, z) of the class's images, n >= 1.
            log_variance: Posterior log-variances (n, z).
            join: Whether what was learned of the class before counts as well, sample by sample.
            count: Samples that these stand for; ``None`` for n.
        """
        # Float64 on the CPU: once a class, and Cholesky is not offered on every device.
        codes = mean.double().cpu()
        centred = codes - codes.mean(dim=0)
        covariance = centred.T @ centred / len(codes)
        covariance += torch.diag(log_variance.double().exp().mean(dim=0).cpu())
        found = (len(codes) if count is None else count, codes.mean(dim=0), covariance)
        row = torch.tensor([entry], device=self.entries.device)
        keep = (self.entries != row).any(dim=1)
        if join and not bool(keep.all()):
            mine = int((~keep).nonzero())
            old = self.factors[mine].double().cpu()
            known = (int(self.seen[mine]), self.means[mine].double().cpu(), old @ old.T)
            found = join_moments(known, found)
        n, centre, covariance = found
        factor = cholesky_factor(covariance)
        self.entries = torch.cat([self.entries[keep], row])
        self.seen = torch.cat([self.seen[keep], torch.tensor([n], device=row.device)])
        self.means = torch.cat([self.means[keep], centre[None].to(self.means)])
        self.factors = torch.cat([self.factors[keep], factor[None].to(self.factors)])

    def classes(self) -> tuple[int, ...]:
        """The distinct classes, in ascending order."""
        return tuple(sorted({int(c) for c in self.entries[:, 2].tolist()}))

    @torch.no_grad()
    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws codes, balanced over classes and, within a class, over its tasks.

        Systematic sampling: each entry comes up within one of its exact share.

        Args:
            n: How many.
            rng: Generator on the density's device.

        Returns:
            Codes (n, z), and the entry (n, 3) that each was drawn for.
        """
        device = self.means.device
        classes = self.entries[:, 2]
        same = (classes[:, None] == classes[None, :]).sum(dim=1)
        edges = torch.cumsum(1.0 / same.double(), dim=0)
        start = torch.rand((), generator=rng, device=device, dtype=torch.float64)
        points = (torch.arange(n, device=device) + start) / n * edges[-1]
        index = torch.searchsorted(edges, points).clamp_(max=len(self) - 1)
        noise = torch.randn(n, self.latent, 1, generator=rng, device=device)
        codes = self.means[index] + torch.bmm(self.factors[index], noise).squeeze(2)
        return codes, self.entries[index]


def cholesky_factor(covariance: Tensor) -> Tensor:
    """The lower Cholesky factor of a covariance; what is singular gets as much as it takes.

    Args:
        covariance: Float64 tensor (D, D) on the CPU.
    """
    eye = torch.eye(len(covariance), dtype=covariance.dtype)
    size = float(covariance.diagonal().mean())
    for ridge in (1e-6, 1e-6 + 1e-9 * size, 1e-6 + 1e-6 * size):
        factor, failed = torch.linalg.cholesky_ex(covariance + ridge * eye)
        if not failed:
            return factor
    return torch.diag((covariance.diagonal() + 1e-6).sqrt())


def join_moments(one: Moments, other: Moments) -> Moments:
    """Count, mean and covariance of two sets of samples together (Chan et al. 1983)."""
    (n, mean, covariance), (m, mean2, covariance2) = one, other
    both, apart = n + m, mean2 - mean
    within = (n * covariance + m * covariance2) / both
    return (
        both,
        mean + apart * m / both,
        within + torch.outer(apart, apart) * n * m / both**2,
    )

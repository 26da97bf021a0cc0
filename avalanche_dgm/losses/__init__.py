"""Loss functions: pure functions of tensors, one value a sample."""

from avalanche_dgm.losses.distillation import distillation, soft_targets
from avalanche_dgm.losses.elbo import bernoulli_nll, gaussian_kl, gaussian_nll

__all__ = ["bernoulli_nll", "distillation", "gaussian_kl", "gaussian_nll", "soft_targets"]

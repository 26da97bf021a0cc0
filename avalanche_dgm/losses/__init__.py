"""Loss functions: pure functions of tensors."""

from avalanche_dgm.losses.adversarial import critic_loss, generator_loss, gradient_penalty
from avalanche_dgm.losses.criterion import Criterion, CriterionScale, measure_criterion
from avalanche_dgm.losses.distillation import distillation, soft_targets
from avalanche_dgm.losses.elbo import bernoulli_nll, gaussian_kl, gaussian_nll

__all__ = [
    "Criterion",
    "CriterionScale",
    "bernoulli_nll",
    "critic_loss",
    "distillation",
    "gaussian_kl",
    "gaussian_nll",
    "generator_loss",
    "gradient_penalty",
    "measure_criterion",
    "soft_targets",
]

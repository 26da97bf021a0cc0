"""Loss functions: pure functions of tensors."""

from typing import TYPE_CHECKING

from avalanche_dgm.deprecated import former_names
from avalanche_dgm.losses.classifiers import (
    Criterion,
    CriterionScale,
    UserCriterion,
    distillation,
    measure_criterion,
    soft_targets,
)
from avalanche_dgm.losses.generators import (
    bernoulli_nll,
    discriminator_loss,
    gaussian_kl,
    gaussian_nll,
    generator_loss,
    gradient_penalty,
)

__all__ = [
    "Criterion",
    "CriterionScale",
    "UserCriterion",
    "bernoulli_nll",
    "discriminator_loss",
    "distillation",
    "gaussian_kl",
    "gaussian_nll",
    "generator_loss",
    "gradient_penalty",
    "measure_criterion",
    "soft_targets",
]

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__, {"critic_loss": "discriminator_loss"})

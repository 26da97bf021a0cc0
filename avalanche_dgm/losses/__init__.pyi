"""What the package offers; see `__init__.py`."""

from avalanche_dgm.losses.classifiers import Criterion as Criterion
from avalanche_dgm.losses.classifiers import CriterionScale as CriterionScale
from avalanche_dgm.losses.classifiers import UserCriterion as UserCriterion
from avalanche_dgm.losses.classifiers import distillation as distillation
from avalanche_dgm.losses.classifiers import measure_criterion as measure_criterion
from avalanche_dgm.losses.classifiers import soft_targets as soft_targets
from avalanche_dgm.losses.generators import bernoulli_nll as bernoulli_nll
from avalanche_dgm.losses.generators import discriminator_loss as discriminator_loss
from avalanche_dgm.losses.generators import gaussian_kl as gaussian_kl
from avalanche_dgm.losses.generators import gaussian_nll as gaussian_nll
from avalanche_dgm.losses.generators import generator_loss as generator_loss
from avalanche_dgm.losses.generators import gradient_penalty as gradient_penalty

# Deprecated.
critic_loss = discriminator_loss

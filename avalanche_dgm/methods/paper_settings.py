"""The settings of Kamra et al. 2017, appendix B, and how its gaps are filled.

Not given in the paper, and chosen here: the generators' hidden layers (400, 400), the short-term
networks ("smaller": generators 200-200 with the same latent size, learners 16-16), and kappa
where it "does not come into play" (0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.fitting import OptimizerSpec

#: Keras' RMSProp with learning rate 0.001, rho 0.9, epsilon 1e-8, no decay (appendix B.2).
RMSPROP = OptimizerSpec("rmsprop", 1e-3, options={"alpha": 0.9, "eps": 1e-8})
#: The same with clipnorm 1.0 and clipvalue 0.5, for the autoencoders.
CLIPPED_RMSPROP = OptimizerSpec(
    "rmsprop", 1e-3, clip_norm=1.0, clip_value=0.5, options={"alpha": 0.9, "eps": 1e-8}
)


@dataclass(frozen=True)
class PaperStream:
    """What the paper tuned for one data set.

    Attributes:
        learner_hidden: Widths of every learner's hidden layers (appendix B.3).
        latent: Latent dimensions of the generator (B.3).
        stm_size: n_STM (B.4).
        n_max: Samples that the memory holds: all of the data set, or half for TDigits (B.4).
        kappa: Smallest share of a new task (B.4).
        rehearsal_size: Samples in the memory of pseudopattern rehearsal (B.4).
    """

    learner_hidden: tuple[int, ...]
    latent: int
    stm_size: int
    n_max: int
    kappa: float
    rehearsal_size: int


PAPER: dict[str, PaperStream] = {
    "digits": PaperStream((24, 24), 32, 2, 60_000, 0.0, 18_000),
    "permnist": PaperStream((48, 48), 64, 2, 180_000, 0.0, 60_000),
    "tdigits": PaperStream((36, 36), 96, 5, 120_000, 0.05, 36_000),
}

#: Passes over the data: autoencoders always, classifiers when trained sequentially (B.2).
GENERATOR_EPOCHS, LEARNER_EPOCHS = 25, 6


def paper_stream(name: str) -> PaperStream:
    """Returns the paper's settings for a data set.

    Args:
        name: ``"digits"``, ``"permnist"`` or ``"tdigits"``.

    Raises:
        ConfigError: The paper has no such data set.
    """
    if name not in PAPER:
        raise ConfigError(f"The paper has no stream {name!r}; it has {', '.join(PAPER)}.")
    return PAPER[name]


def dgdmn_hyper(name: str, *, scale: float = 1.0) -> dict[str, Any]:
    """Hyper-parameters of `DGDMN` as in the paper.

    DGR in the paper is the same with ``short_term=False, stm_size=1``: every task goes straight
    into the long-term memory (Sec. 4.1).

    Args:
        name: ``"digits"``, ``"permnist"`` or ``"tdigits"``.
        scale: Share of the data set that is used; the memory shrinks with it.
    """
    s = paper_stream(name)
    return {
        "architecture": "dense",
        "hidden": (400, 400),
        "latent": s.latent,
        "likelihood": "bernoulli",
        "value_range": (0.0, 1.0),
        "kl_weight": 1.0,
        "sampling": "prior",
        "consolidation": "rehearsal",
        "labels": "hard",
        "count": "tasks",
        "reconstruct": True,
        "routing": "oracle",
        "kappa": s.kappa,
        "n_max": max(1, round(s.n_max * scale)),
        "stm_size": s.stm_size,
        "batch_size": 128,
        "generator_epochs": GENERATOR_EPOCHS,
        "generator_optimizer": CLIPPED_RMSPROP,
        "learner_epochs": LEARNER_EPOCHS,
        "learner_optimizer": RMSPROP,
        "stm_hidden": (200, 200),
        "stm_learner_hidden": (16, 16),
    }

"""A generator of your own: a small class-conditional diffusion model.

Run it with ``python examples/generators/diffusion.py``; ``--fast`` only shows that it works.
"""

import argparse
import math
from typing import Any

import torch
import torch.nn.functional as F
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import Tensor, nn

from avalanche_dgm import ALTMPlugin, DGRPlugin, OptimizerSpec, sklearn_digits
from avalanche_dgm.fitting import Phase
from avalanche_dgm.generators import Generator


class Denoiser(nn.Module):
    """Tells signal and noise apart.

    Args:
        size: Values of a sample.
        codes: Values of a class's code.
        hidden: Units of its hidden layers.
    """

    def __init__(self, size: int, codes: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(8))
        self.network = nn.Sequential(
            nn.Linear(size + codes + 16, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, size),
        )

    def forward(self, values: Tensor, times: Tensor, codes: Tensor) -> Tensor:
        """From noisy values (n, D) at times (n,) and codes (n, K) to the velocities (n, D)."""
        angles = times[:, None] * self.frequencies
        return self.network(torch.cat([values, codes, angles.sin(), angles.cos()], dim=1))


class Diffusion(Generator):
    """A denoising diffusion model, told the class by a random vector of its own: its code.

    It is trained at random times (Ho et al. 2020), to predict a velocity (Salimans & Ho 2022), and
    samples in a few deterministic steps (DDIM, Song et al. 2021).

    Args:
        hidden: Units of the denoiser's hidden layers.
        centre: Subtracted from samples, in their units.
        spread: What they are divided by then.
        sampling_steps: Steps from noise to samples.
        steps: Optimiser steps an experience.

    Attributes:
        codes: Float tensor (K, CODE), the classes' codes.
    """

    CODE = 16
    codes: Tensor

    def __init__(
        self,
        *,
        hidden: int = 128,
        centre: float = 0.5,
        spread: float = 0.5,
        sampling_steps: int = 10,
        steps: int = 600,
    ) -> None:
        super().__init__()
        self.hidden, self.centre, self.spread = hidden, centre, spread
        self.sampling_steps, self.steps = sampling_steps, steps
        self.register_buffer("codes", torch.empty(0, self.CODE))

    def make_networks(self, shape: tuple[int, ...]) -> None:
        """See `Generator.make_networks`."""
        self.denoiser = Denoiser(math.prod(shape), self.CODE, self.hidden)

    def fit(self, samples: Tensor, rows: Tensor, rng: torch.Generator) -> list[Phase]:
        """Trains the denoiser at times drawn at random (Ho et al. 2020, Algorithm 1)."""
        new = (len(self.classes) - len(self.codes), self.CODE)
        self.codes = torch.cat(
            [self.codes, torch.randn(new, generator=rng, device=self.codes.device)]
        )

        def loss(batch: tuple[Tensor, ...], rng: torch.Generator) -> Tensor:
            clean, rows = batch
            times = torch.rand(len(clean), generator=rng, device=clean.device)
            noise = torch.randn(clean.shape, generator=rng, device=clean.device)
            signal, sigma = levels(times[:, None])
            noisy, velocity = signal * clean + sigma * noise, signal * noise - sigma * clean
            return F.mse_loss(self.denoiser(noisy, times, self.codes[rows]), velocity)

        values = (samples.flatten(1) - self.centre) / self.spread
        adam = OptimizerSpec("adam", 2e-3, "one-cycle")
        return [Phase("diffusion", self, loss, adam, self.steps, 128, (values, rows))]

    @torch.no_grad()
    def sample(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """See `Generator.sample`."""
        size = (len(rows), math.prod(self.shape))
        values, codes = torch.randn(size, generator=rng, device=rows.device), self.codes[rows]
        times = torch.linspace(1, 0, self.sampling_steps + 1, device=rows.device)
        signals, sigmas = levels(times)
        for i in range(self.sampling_steps):
            velocity = self.denoiser(values, times[i].expand(len(rows)), codes)
            clean = signals[i] * values - sigmas[i] * velocity
            noise = sigmas[i] * values + signals[i] * velocity
            values = signals[i + 1] * clean + sigmas[i + 1] * noise
        return (self.centre + self.spread * values).unflatten(1, self.shape)


def levels(times: Tensor) -> tuple[Tensor, Tensor]:
    """How much of the signal, and of the noise, is there at times in [0, 1]."""
    angles = times * (math.pi / 2)
    return angles.cos(), angles.sin()


def train(plugin: Any, *, fast: bool) -> float:
    """Trains a network on digits, one after the other: its accuracy on all of them."""
    torch.manual_seed(0)
    size = {"n_experiences": 5, "n_train_per_class": 20} if fast else {}
    benchmark = sklearn_digits(**size)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 10))
    log = open("diffusion.log", "w")  # noqa: SIM115 - stays open as long as the logger
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        train_mb_size=32,
        train_epochs=1 if fast else 20,
        eval_mb_size=512,
        plugins=[plugin] if plugin is not None else [],
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[TextLogger(log)]),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    metrics = strategy.eval(benchmark.test_stream)
    return metrics["Top1_Acc_Stream/eval_phase/test_stream/Task000"]


def main(fast: bool) -> float:
    print(f"without a memory: {train(None, fast=fast):.3f}")
    generator = Diffusion(steps=20) if fast else Diffusion()
    altm = train(ALTMPlugin(replay=generator), fast=fast)
    print(f"A-LTM, answers held on its samples: {altm:.3f}")
    accuracy = train(DGRPlugin(generator=generator), fast=fast)
    print(f"final accuracy: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    main(parser.parse_args().fast)

"""A generator of your own: a class-conditional normalising flow of affine couplings.

Run it with ``python examples/generators/normalizing_flow.py``; ``--fast`` only shows that it works.
"""

import argparse
import math
from typing import Any

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import Tensor, nn

from avalanche_dgm import ALTMPlugin, DGRPlugin, OptimizerSpec, sklearn_digits
from avalanche_dgm.fitting import Phase
from avalanche_dgm.generators import Generator


class Coupling(nn.Module):
    """An affine coupling (RealNVP, Dinh et al. 2017): every other value scales and shifts the rest.

    Args:
        size: Values of a sample.
        codes: Values of a class's code.
        hidden: Units of its hidden layer.
        first: Whether values 0, 2, 4, ... are those that stay; otherwise 1, 3, 5, ...
    """

    def __init__(self, size: int, codes: int, hidden: int, *, first: bool) -> None:
        super().__init__()
        self.register_buffer("stays", (torch.arange(size) % 2 == int(not first)).float())
        self.network = nn.Sequential(
            nn.Linear(size + codes, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * size),
        )

    def _scale_and_shift(self, values: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        out = self.network(torch.cat([values * self.stays, codes], dim=1))
        log_scale, shift = out.chunk(2, dim=1)
        changes = 1 - self.stays
        return 2 * torch.tanh(log_scale / 2) * changes, shift * changes

    def forward(self, values: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """From samples to noise: values (n, D), and the log-determinants (n,)."""
        log_scale, shift = self._scale_and_shift(values, codes)
        return values * log_scale.exp() + shift, log_scale.sum(dim=1)

    def inverse(self, values: Tensor, codes: Tensor) -> Tensor:
        """From noise to samples."""
        log_scale, shift = self._scale_and_shift(values, codes)
        return (values - shift) * (-log_scale).exp()


class Flow(Generator):
    """A normalising flow, told the class by a random vector of its own: its code.

    Args:
        layers: Couplings.
        hidden: Units of their hidden layers.
        noise: Standard deviation of the noise on training samples, in the samples' units: without
            it, values that never change would have an infinite density.
        steps: Optimiser steps an experience.

    Attributes:
        codes: Float tensor (K, CODE), the classes' codes.
    """

    CODE = 16
    codes: Tensor

    def __init__(
        self, *, layers: int = 6, hidden: int = 128, noise: float = 0.05, steps: int = 400
    ) -> None:
        super().__init__()
        self.layers, self.hidden, self.noise, self.steps = layers, hidden, noise, steps
        self.register_buffer("codes", torch.empty(0, self.CODE))

    def make_networks(self, shape: tuple[int, ...]) -> None:
        """See `Generator.make_networks`."""
        self.couplings = nn.ModuleList(
            Coupling(math.prod(shape), self.CODE, self.hidden, first=i % 2 == 0)
            for i in range(self.layers)
        )

    def negative_log_likelihood(self, samples: Tensor, rows: Tensor) -> Tensor:
        """Of samples (n, *shape) of the classes in rows (n,): in nats, (n,)."""
        values, codes = samples.flatten(1), self.codes[rows]
        total = 0.5 * math.log(2 * math.pi) * values.shape[1]
        for coupling in self.couplings:
            values, log_determinant = coupling(values, codes)
            total = total - log_determinant
        return total + 0.5 * (values**2).sum(dim=1)

    def fit(self, samples: Tensor, rows: Tensor, rng: torch.Generator) -> list[Phase]:
        """Maximum likelihood."""
        new = (len(self.classes) - len(self.codes), self.CODE)
        self.codes = torch.cat(
            [self.codes, torch.randn(new, generator=rng, device=self.codes.device)]
        )

        def loss(batch: tuple[Tensor, ...], rng: torch.Generator) -> Tensor:
            samples, rows = batch
            noise = torch.randn(samples.shape, generator=rng, device=samples.device)
            return self.negative_log_likelihood(samples + self.noise * noise, rows).mean()

        adam = OptimizerSpec("adam", 1e-3, "one-cycle", clip_norm=50.0)
        return [Phase("flow", self, loss, adam, self.steps, 128, (samples, rows))]

    @torch.no_grad()
    def sample(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """See `Generator.sample`."""
        size = (len(rows), math.prod(self.shape))
        values, codes = torch.randn(size, generator=rng, device=rows.device), self.codes[rows]
        for coupling in reversed(self.couplings):
            values = coupling.inverse(values, codes)
        return values.unflatten(1, self.shape)

    @torch.no_grad()
    def score(self, samples: Tensor) -> Tensor:
        """The negative log-likelihood, all classes being equally likely."""
        rows = torch.arange(len(self.classes), device=samples.device).repeat(len(samples))
        each = self.negative_log_likelihood(
            samples.repeat_interleave(len(self.classes), dim=0), rows
        ).view(len(samples), -1)
        return math.log(each.shape[1]) - torch.logsumexp(-each, dim=1)


def train(plugin: Any, *, fast: bool) -> float:
    """Trains a network on digits, one after the other: its accuracy on all of them."""
    torch.manual_seed(0)
    size = {"n_experiences": 5, "n_train_per_class": 20} if fast else {}
    benchmark = sklearn_digits(**size)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 10))
    log = open("normalizing_flow.log", "w")  # noqa: SIM115 - stays open as long as the logger
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
    generator = Flow(steps=20) if fast else Flow()
    altm = train(ALTMPlugin(replay=generator), fast=fast)
    print(f"A-LTM, answers held on its samples: {altm:.3f}")
    accuracy = train(DGRPlugin(generator=generator), fast=fast)
    print(f"final accuracy: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    main(parser.parse_args().fast)

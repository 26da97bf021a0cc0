"""A generator of your own: scikit-learn's mixture of Gaussians, one for each class.

Run it with ``python examples/generators/gaussian_mixture.py``; ``--fast`` only shows that it works.
"""

import argparse
from typing import Any

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from avalanche_dgm import ALTMPlugin, DGDMNPlugin, DGRPlugin, LatentReplayPlugin, sklearn_digits
from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import DataError
from avalanche_dgm.generators import Generator


class Mixtures(Generator):
    """A mixture of Gaussians with full covariances for each class.

    Args:
        components: Gaussians a class.
        ridge: Added to the variances, in the samples' units squared.

    Attributes:
        weights: Float tensor (K, M), the components' probabilities.
        means: Float tensor (K, M, D).
        factors: Float tensor (K, M, D, D), lower Cholesky factors of the covariances.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, *, components: int = 3, ridge: float = 1e-3) -> None:
        super().__init__()
        self.components, self.ridge = components, ridge
        for name in ("weights", "means", "factors"):
            self.register_buffer(name, torch.empty(0))

    def check(self, data: ExperienceData) -> None:
        """Refuses a class with fewer samples than components."""
        super().check(data)
        for task, label in data.pairs.tolist():
            n = int(((data.tasks == task) & (data.labels == label)).sum())
            if n < self.components:
                raise DataError(
                    f"Class {label} has {n} samples, too few for {self.components} Gaussians."
                    " Give it more, or lower components."
                )

    def fit(self, samples: Tensor, rows: Tensor, rng: torch.Generator) -> tuple[()]:
        """Fits each class by expectation maximisation; nothing is trained by steps."""
        seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
        flat, rows = samples.flatten(1).double().cpu(), rows.cpu()
        fitted = [
            GaussianMixture(self.components, reg_covar=self.ridge, random_state=seed).fit(
                flat[rows == row].numpy()
            )
            for row in range(len(self.classes))
        ]
        self.weights = torch.stack([torch.from_numpy(m.weights_) for m in fitted]).to(samples)
        self.means = torch.stack([torch.from_numpy(m.means_) for m in fitted]).to(samples)
        covariances = torch.stack([torch.from_numpy(m.covariances_) for m in fitted])
        self.factors = torch.linalg.cholesky(covariances).to(samples)
        return ()

    @torch.no_grad()
    def sample(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """See `Generator.sample`."""
        chosen = torch.multinomial(self.weights[rows], 1, generator=rng).squeeze(1)
        means, factors = self.means[rows, chosen], self.factors[rows, chosen]
        noise = torch.randn(*means.shape, 1, generator=rng, device=rng.device)
        return (means + (factors @ noise).squeeze(2)).unflatten(1, self.shape)

    @torch.no_grad()
    def score(self, samples: Tensor) -> Tensor:
        """The negative log-likelihood, all classes being equally likely."""
        gaussians = MultivariateNormal(
            self.means.flatten(0, 1), scale_tril=self.factors.flatten(0, 1)
        )
        densities = gaussians.log_prob(samples.flatten(1)[:, None])
        return -torch.logsumexp(densities + (self.weights / len(self.classes)).log().flatten(), 1)


def train(plugin: Any, *, fast: bool) -> float:
    """Trains a network on digits, one after the other: its accuracy on all of them."""
    torch.manual_seed(0)
    size = {"n_experiences": 5, "n_train_per_class": 20} if fast else {}
    benchmark = sklearn_digits(**size)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 10))
    log = open("gaussian_mixture.log", "w")  # noqa: SIM115 - stays open as long as the logger
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
    dual = train(DGDMNPlugin(generator=Mixtures()), fast=fast)
    print(f"dual memory, one generator each: {dual:.3f}")
    altm = train(ALTMPlugin(replay=Mixtures()), fast=fast)
    print(f"A-LTM, answers held on its samples: {altm:.3f}")
    latent = train(LatentReplayPlugin(layer=2, memory=Mixtures()), fast=fast)
    print(f"latent replay, of hidden units: {latent:.3f}")
    accuracy = train(DGRPlugin(generator=Mixtures()), fast=fast)
    print(f"final accuracy: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    main(parser.parse_args().fast)

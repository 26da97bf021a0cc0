"""What a memory sees and makes: Figures 9, 10 and 11 of the DGDMN paper, on the embedded digits.

Run it with ``python examples/avalanche/paper_figures.py``; ``--fast`` only shows that it works.
"""

import argparse
import io

import torch
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn

from avalanche_dgm import DGDMNPlugin, plots, sklearn_digits


def train(n_experiences: int, fast: bool, plugin: DGDMNPlugin | None = None) -> nn.Module:
    """Learns ten digits in so many experiences."""
    torch.manual_seed(0)
    benchmark = sklearn_digits(n_experiences=n_experiences, n_train_per_class=20 if fast else None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 10))
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        train_mb_size=32,
        train_epochs=1 if fast else 20,
        plugins=[plugin] if plugin is not None else [],
        evaluator=EvaluationPlugin(loggers=[TextLogger(io.StringIO())]),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    # A last sleep, so that the long-term memory answers for everything.
    return plugin.finish(strategy) if plugin is not None else model


def main(fast: bool) -> float:
    # The paper's learners see images as the memory reconstructs them, corrupted ones as well.
    few = {"generator_steps": 20, "learner_steps": 20} if fast else {}
    joint = DGDMNPlugin(reconstruct=True, stm_size=1, **few)
    sequential = DGDMNPlugin(reconstruct=True, **few)
    train(1, fast, joint)
    train(10, fast, sequential)
    net = train(1, fast)

    test = sklearn_digits(n_experiences=1).test_stream[0].dataset.eval()
    images = torch.stack([sample[0] for sample in test])
    labels = torch.tensor([sample[1] for sample in test])
    one_of_each = torch.stack([images[labels == label][0] for label in range(10)])

    figure = plots.kamra2017
    measured = figure.robustness({"LTM": joint, "plain network": net}, images, labels)
    memories = {"(a) learned jointly": joint, "(b) learned one by one": sequential}
    plots.save(figure.resilience(measured, joint, one_of_each), "figure-9.png")
    plots.save(figure.latents(memories, images, labels), "figure-10.png")
    plots.save(figure.samples(memories), "figure-11.png")

    for name, accuracies in measured.noisy.items():
        at = measured.deviations.index(0.5)
        print(f"{name}: {accuracies[0]:.3f}, with noise of sd 0.5 {accuracies[at]:.3f}")
    print("figure-9.png, figure-10.png and figure-11.png are written")
    return measured.noisy["LTM"][0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    main(parser.parse_args().fast)

"""A-LTM in Avalanche: the model is held near a frozen copy of itself.

Run it with ``python examples/avalanche/altm.py``; ``--fast`` only shows that it works.
"""

import argparse
import io

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn

from avalanche_dgm import ALTMPlugin, latent_split


def main(fast: bool) -> float:
    torch.manual_seed(0)

    # Five digits, then the other five. The stream also takes MNIST, Fashion-MNIST and KMNIST.
    benchmark = latent_split(dataset="sklearn-digits", n_train_per_class=20 if fast else None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 10))
    # With one head for all classes old inputs are needed: a few that are stored, or generated ones.
    plugin = ALTMPlugin(replay="stored", per_class=10)

    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        train_mb_size=32,
        train_epochs=1 if fast else 20,
        eval_mb_size=512,
        plugins=[plugin],
        evaluator=EvaluationPlugin(
            accuracy_metrics(stream=True), loggers=[TextLogger(io.StringIO())]
        ),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)

    metrics = strategy.eval(benchmark.test_stream)
    accuracy = metrics["Top1_Acc_Stream/eval_phase/test_stream/Task000"]
    print(f"samples stored: {plugin.method.stored_samples()}")
    print(f"final accuracy: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    main(parser.parse_args().fast)

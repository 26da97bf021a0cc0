"""Latent replay in Avalanche: a few latents behind a frozen compressor.

Run it with ``python examples/avalanche/latent_replay.py``; ``--fast`` only shows that it works.
"""

import argparse
import io

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive

from avalanche_dgm import LatentReplayPlugin, latent_replay_network, latent_split


def main(fast: bool) -> float:
    torch.manual_seed(0)

    # Five digits, then the other five. The stream also takes MNIST, Fashion-MNIST and KMNIST.
    benchmark = latent_split(dataset="sklearn-digits", n_train_per_class=20 if fast else None)
    # A compressor and a classifier; a model of yours is cut by LatentReplayPlugin(layer=...).
    model = latent_replay_network((1, 8, 8), n_classes=10)
    # Twenty latents of each class are kept, a byte for each value.
    plugin = LatentReplayPlugin(per_class=4 if fast else 20, dtype="uint8")
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
    print(f"the memory has {plugin.memory_bytes()} bytes")
    print(f"final accuracy: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    main(parser.parse_args().fast)

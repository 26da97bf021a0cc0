"""Deep generative replay in Avalanche: ten digits, one after the other.

Run it with ``python examples/avalanche/dgr.py``; ``--fast`` only shows that it works.
"""

import argparse
import io

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn

from avalanche_dgm import DGRPlugin, memory_metrics, sklearn_digits


def main(fast: bool) -> float:
    torch.manual_seed(0)

    # Ten experiences of one class each. Any Avalanche benchmark of images will do.
    benchmark = sklearn_digits(n_train_per_class=20 if fast else None)

    # The model and its optimiser are yours.
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 400),
        nn.ReLU(),
        nn.Linear(400, 400),
        nn.ReLU(),
        nn.Linear(400, benchmark.n_classes),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    # All that is added. It needs no argument; --fast gives it a few steps, which are not enough.
    plugin = DGRPlugin(generator_steps=20) if fast else DGRPlugin()

    # Accuracies, and what the memory replays and holds, go to whatever loggers you use.
    evaluator = EvaluationPlugin(
        accuracy_metrics(experience=True, stream=True),
        memory_metrics(),
        loggers=[TextLogger(io.StringIO())],
    )
    strategy = Naive(
        model=model,
        optimizer=optimizer,
        train_mb_size=32,
        train_epochs=1 if fast else 30,
        eval_mb_size=512,
        plugins=[plugin],
        evaluator=evaluator,
    )

    for i, experience in enumerate(benchmark.train_stream):
        strategy.train(experience)
        metrics = strategy.eval(benchmark.test_stream[: i + 1])
        accuracy = metrics["Top1_Acc_Stream/eval_phase/test_stream/Task000"]
        done = f"{plugin.stats.replayed} images replayed"
        print(f"after {experience.task_name}: {accuracy:.3f} on all classes so far, {done}")

    # What is remembered can be looked at: images (n, 1, 8, 8), labels (n,), task labels (n,).
    remembered = plugin.method.sample(100)
    print(f"classes among 100 generated images: {remembered.labels.unique().tolist()}")

    print(f"final accuracy: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    main(parser.parse_args().fast)

"""What a task oracle is worth to DGDMN: MNIST, one digit an experience, default settings.

After each experience the same memories answer twice: each test image by the memory that explains it
best (nothing is told about its task), and by the memory that the oracle names. With two short-term
memories every other experience ends in sleep; then all tasks are in the long-term memory and both
ways are one.

    python benchmarks/routing.py --data-root data --seeds 3
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from statistics import mean
from typing import Any

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn

from avalanche_dgm import DGDMNPlugin, digits


def accuracy(strategy: Naive, plugin: DGDMNPlugin, stream: Any, routing: str) -> float:
    """Average over the test stream, routed in one way."""
    settings = plugin.method.settings
    plugin.method.settings = replace(settings, routing=routing)
    result = strategy.eval(stream)
    plugin.method.settings = settings
    scores = [v for k, v in result.items() if k.startswith("Top1_Acc_Exp/eval")]
    return mean(scores[-len(stream) :])


def run(seed: int, root: str | None) -> list[tuple[float, float]]:
    """Learns the ten digits; returns the accuracies (ELBO, oracle) after each."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 400),
        nn.ReLU(),
        nn.Linear(400, 400),
        nn.ReLU(),
        nn.Linear(400, 10),
    )
    stream = digits(root)
    plugin = DGDMNPlugin(seed=seed)
    strategy = Naive(
        model=net,
        optimizer=torch.optim.Adam(net.parameters(), lr=1e-3),
        train_mb_size=128,
        train_epochs=5,
        eval_mb_size=1000,
        plugins=[plugin],
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[]),
    )
    rows = []
    for i, experience in enumerate(stream.train_stream, start=1):
        strategy.train(experience)
        seen = stream.test_stream[:i]
        rows.append(
            (accuracy(strategy, plugin, seen, "elbo"), accuracy(strategy, plugin, seen, "oracle"))
        )
        elbo, oracle = rows[-1]
        waiting = plugin.record.stm_occupancy
        print(
            f"seed {seed}  after {i:2d} digits ({waiting} in the STM):"
            f" ELBO {elbo:.4f}  oracle {oracle:.4f}  {100 * (oracle - elbo):+.2f} points",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", help="folder of MNIST; default: AVALANCHE_DGM_DATA")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    runs = [run(seed, options.data_root) for seed in range(options.seeds)]
    print("mean over the seeds")
    for i, rows in enumerate(zip(*runs, strict=True), start=1):
        elbo, oracle = mean(r[0] for r in rows), mean(r[1] for r in rows)
        print(f"after {i:2d} digits: ELBO {elbo:.4f}  oracle {oracle:.4f}")


if __name__ == "__main__":
    main()

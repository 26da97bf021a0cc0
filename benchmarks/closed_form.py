"""Classifiers in closed form on a stream of stored features: accuracies, bytes, seconds.

    python benchmarks/closed_form.py features.pt --experiences 10 --orders 0 1 2

The file is a dictionary: ``train`` and ``test``, each a float tensor (N, D) and labels (N,).
"""

from __future__ import annotations

import argparse
import time
import warnings
from statistics import mean, stdev
from typing import Any

import torch
from avalanche.benchmarks.scenarios.supervised import class_incremental_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch.utils.data import TensorDataset

from avalanche_dgm import NCMPlugin, RanPACPlugin, SLDAPlugin

METHODS: dict[str, Any] = {
    "ncm": NCMPlugin,
    "slda": SLDAPlugin,
    "ranpac": lambda **hyper: RanPACPlugin(projections=2000, **hyper),
    "ranpac-4000": lambda **hyper: RanPACPlugin(projections=4000, **hyper),
}


def stream_of(features: dict[str, Any], n_experiences: int, order: int) -> Any:
    """The class-incremental benchmark of a random order of classes."""
    sets = {}
    for split in ("train", "test"):
        vectors, labels = features[split]
        data: Any = TensorDataset(vectors.float(), labels)
        data.targets = labels.tolist()
        sets[split] = as_classification_dataset(data)
    return class_incremental_benchmark(sets, num_experiences=n_experiences, seed=order)


def measure(name: str, benchmark: Any, test: tuple[torch.Tensor, torch.Tensor]) -> list[float]:
    """Test accuracy after the last experience, bytes held, seconds of training."""
    vectors, labels = test
    model = torch.nn.Linear(vectors.shape[1], int(labels.max()) + 1)
    plugin = METHODS[name](seed=0)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        evaluator=EvaluationPlugin(loggers=[]),
        plugins=[plugin],
    )
    start = time.perf_counter()
    for experience in benchmark.train_stream:
        strategy.train(experience)
    seconds = time.perf_counter() - start
    answers = plugin.method.predict(vectors.float(), torch.zeros_like(labels)).argmax(dim=1)
    return [float((answers == labels).float().mean()), plugin.memory_bytes(), seconds]


def main() -> None:
    """Prints a row for each method, with the standard deviation over the orders."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("features")
    parser.add_argument("--experiences", type=int, default=10)
    parser.add_argument("--orders", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    features = torch.load(arguments.features)
    benchmarks = [stream_of(features, arguments.experiences, order) for order in arguments.orders]
    print("| method | accuracy of each order | mean | sd | bytes | seconds |")
    print("|---|---|---|---|---|---|")
    for name in arguments.methods:
        rows = [measure(name, benchmark, features["test"]) for benchmark in benchmarks]
        found = [row[0] for row in rows]
        spread = stdev(found) if len(found) > 1 else 0.0
        each = " ".join(f"{value:.4f}" for value in found)
        seconds = mean(row[2] for row in rows)
        print(
            f"| {name} | {each} | {mean(found):.4f} | {spread:.4f} | {rows[0][1]:,} |"
            f" {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

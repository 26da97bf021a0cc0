"""Methods where the user trains few steps: 60 an experience, five experiences of two classes.

    python benchmarks/few_steps.py digits mnist --methods plain dgr dgdmn --seeds 3

Data sets: the embedded digits, MNIST (from ``AVALANCHE_DGM_DATA``), drawn clusters, or a file of
features as `features.py` takes it. At most 1,280 training samples an experience, 10 batches, six
epochs; a network of two hidden layers of 400 units, Adam at 0.001. *All* is the mean accuracy on
all experiences after the last one; *new* that on each experience when it was just learned.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from features import Split, hold_out, stream_of
from torch import Tensor, nn

from avalanche_dgm import DGDMNPlugin, DGRPlugin, continual_metrics

METHODS: dict[str, Any] = {"plain": None, "dgr": DGRPlugin, "dgdmn": DGDMNPlugin}
BATCHES, EPOCHS, LARGEST_BATCH = 10, 6, 128
EXPERIENCES, CLASSES = 5, 10


def digits() -> tuple[Split, Split]:
    """The embedded digits, a fifth of them for testing."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    vectors = torch.from_numpy(images).float() / 16
    test = torch.arange(len(labels)) % 5 == 0
    targets = torch.from_numpy(labels).long()
    return (vectors[~test], targets[~test]), (vectors[test], targets[test])


def mnist() -> tuple[Split, Split]:
    """MNIST as vectors of 784 values."""
    from torchvision.datasets import MNIST

    root = os.environ.get("AVALANCHE_DGM_DATA", "data")
    sets = (MNIST(root, train=True), MNIST(root, train=False))
    train, test = ((s.data.flatten(1).float() / 255, s.targets) for s in sets)
    return train, test


def clusters() -> tuple[Split, Split]:
    """Drawn vectors of 64 values, a cluster a class, standardised; some overlap."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(2000 * CLASSES) % CLASSES
    centres = torch.randn(CLASSES, 64, generator=rng)
    vectors = 0.5 * centres[labels] + torch.randn(len(labels), 64, generator=rng)
    vectors = (vectors - vectors.mean(dim=0)) / vectors.std(dim=0)
    n = 1500 * CLASSES
    return (vectors[:n], labels[:n]), (vectors[n:], labels[n:])


DATA = {"digits": digits, "mnist": mnist, "clusters": clusters}


def load(name: str) -> tuple[Split, Split]:
    """A data set by name, or from a file of features."""
    if name in DATA:
        return DATA[name]()
    found = torch.load(name)
    return found["train"], found["test"]


def smaller(split: Split, seed: int) -> Split:
    """As many samples of each class as make the batches."""
    vectors, labels = split
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    per_class = LARGEST_BATCH * BATCHES * EXPERIENCES // CLASSES
    kept = torch.cat([order[labels[order] == k][:per_class] for k in range(CLASSES)])
    return vectors[kept], labels[kept]


def measure(plugin: Any, sets: tuple[Split, Split], seed: int, hyper: dict[str, Any]) -> Any:
    """Accuracies of all and of new experiences, and seconds."""
    train, test = smaller(sets[0], seed), sets[1]
    benchmark = stream_of(train, test, EXPERIENCES, seed)
    torch.manual_seed(seed)
    d = train[0].shape[1]
    layers: list[nn.Module] = [nn.Linear(d, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(400, CLASSES))
    (record,) = continual_metrics()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        train_mb_size=min(LARGEST_BATCH, len(train[1]) // (EXPERIENCES * BATCHES)),
        train_epochs=EPOCHS,
        eval_mb_size=1000,
        plugins=[] if plugin is None else [plugin(seed=seed, **hyper)],
        evaluator=EvaluationPlugin(record, loggers=[]),
    )
    start = time.process_time()
    for experience in benchmark.train_stream:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)
    matrix: Tensor = record.matrix()
    return matrix[-1].mean().item(), matrix.diag().tolist(), time.process_time() - start


def main() -> None:
    """Prints a row for each data set and method, means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="+", help=f"{', '.join(DATA)} or a file of features")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", type=json.loads, default={}, help="settings as JSON")
    parser.add_argument("--held-out", type=float, default=0.0, help="share tested on, for settings")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| data | method | all | of each seed | new | new, last experience | CPU seconds |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.data:
        sets = load(name)
        if arguments.held_out:
            sets = hold_out(sets[0], arguments.held_out)
        for method in arguments.methods:
            hyper = arguments.set if method != "plain" else {}
            rows = [measure(METHODS[method], sets, s, hyper) for s in range(arguments.seeds)]
            each = " ".join(f"{row[0]:.3f}" for row in rows)
            new, last = mean(mean(row[1]) for row in rows), mean(row[1][-1] for row in rows)
            print(
                f"| {Path(name).stem} | {method} | {mean(row[0] for row in rows):.3f} | {each} |"
                f" {new:.3f} | {last:.3f} | {mean(row[2] for row in rows):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

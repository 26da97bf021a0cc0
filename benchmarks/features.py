"""Methods on a class-incremental stream of stored features: accuracies, bytes, seconds.

    python benchmarks/features.py features.pt --experiences 10 --orders 0 1 2

The file is a dictionary: ``train`` and ``test``, each a float tensor (N, D) and labels (N,).
``--held-out`` tests on a part of the training samples, so that settings can be chosen.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

import torch
from avalanche.benchmarks.scenarios.supervised import class_incremental_benchmark
from avalanche.benchmarks.utils import _make_taskaware_classification_dataset
from avalanche.training.plugins import EvaluationPlugin, LRSchedulerPlugin
from avalanche.training.supervised import Naive
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from avalanche_dgm import LatentReplayPlugin, NCMPlugin, RanPACPlugin, SLDAPlugin
from avalanche_dgm.generators import ClassDensity
from avalanche_dgm.held import held_bytes
from avalanche_dgm.plugins.byte_replay import ByteDER, ByteReplayPlugin

Split = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Entry:
    """A method and how its network is trained.

    Attributes:
        plugin: Makes the plugin, or the strategy, of some hyper-parameters, or is ``None``.
        hyper: These.
        batch_size: New samples a step.
        joint: Whether all experiences come at once.
    """

    plugin: Callable[..., Any] | None
    hyper: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 128
    joint: bool = False


_LATENT = {"freeze_after": 0, "seed": 0}
_DENSITY = {**_LATENT, "memory": "density", "labels": "hard", "replay_size": 384}
#: Many clusters a class, and one covariance of what samples differ by from their cluster's mean.
_CLUSTERS = ClassDensity(
    covariance="low-rank",
    tied="all",
    components=120,
    rank=128,
    at_rest="int8",
    centres_at_rest="int4",
)
_MIXTURE = {**_LATENT, "memory": _CLUSTERS, "finetune_data": "generated", "finetune_steps": 1200}
METHODS: dict[str, Entry] = {
    "ncm": Entry(NCMPlugin, {"seed": 0}),
    "slda": Entry(SLDAPlugin, {"seed": 0}),
    "ranpac": Entry(RanPACPlugin, {"seed": 0, "projections": 2000}),
    "ranpac-4000": Entry(RanPACPlugin, {"seed": 0, "projections": 4000}),
    "naive": Entry(None),
    "replay": Entry(ByteReplayPlugin),
    "der++": Entry(ByteDER),
    "latent-replay": Entry(LatentReplayPlugin, _LATENT),
    "density": Entry(LatentReplayPlugin, _DENSITY),
    "mixture": Entry(LatentReplayPlugin, _MIXTURE),
    "joint": Entry(None, batch_size=512, joint=True),
}


def stream_of(train: Split, test: Split, n_experiences: int, order: int) -> Any:
    """The class-incremental benchmark of a random order of classes."""
    sets = {}
    for name, (vectors, labels) in (("train", train), ("test", test)):
        data: Any = TensorDataset(vectors.float(), labels)
        data.targets = labels.tolist()
        sets[name] = _make_taskaware_classification_dataset(data, task_labels=0)
    return class_incremental_benchmark(sets, num_experiences=n_experiences, seed=order)


def hold_out(train: Split, share: float) -> tuple[Split, Split]:
    """Divides training samples in two: those that are trained on, and those that are held out."""
    vectors, labels = train
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    held, rest = order.tensor_split([round(share * len(labels))])
    return (vectors[rest], labels[rest]), (vectors[held], labels[held])


def network(d: int, n_classes: int, dropout: float, hidden: int) -> nn.Module:
    """A classifier of features (n, d): linear, or with one hidden layer."""
    head = nn.Sequential(nn.Dropout(dropout))
    if hidden:
        # Hidden units learn faster from standardised features.
        head.insert(0, nn.BatchNorm1d(d, affine=False))
        head.extend([nn.Linear(d, hidden), nn.ReLU(), nn.Dropout(0.5)])
    head.append(nn.Linear(hidden or d, n_classes))
    return nn.Sequential(OrderedDict(compressor=nn.Identity(), classifier=head))


def measure(
    entry: Entry, benchmark: Any, sets: tuple[Split, Split], arguments: argparse.Namespace
) -> dict[str, float]:
    """Accuracies after the last experience, bytes held, seconds of training."""
    vectors, labels = sets[1]
    torch.manual_seed(arguments.seed)
    n_classes = int(labels.max()) + 1
    model = network(vectors.shape[1], n_classes, arguments.dropout, arguments.hidden)
    hyper = {**entry.hyper}
    if arguments.budget is not None and entry.plugin is not None:
        hyper["memory_budget"] = arguments.budget
    for change in arguments.set:
        name, _, value = change.partition("=")
        hyper[name] = int(value) if value.isdigit() else value
    optimizer = torch.optim.Adam(model.parameters(), lr=arguments.lr)
    experiences = list((stream_of(*sets, 1, 0) if entry.joint else benchmark).train_stream)
    n = len(experiences[0].dataset)
    steps = arguments.epochs * -(-n // entry.batch_size)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    scheduler = LRSchedulerPlugin(
        cosine, step_granularity="iteration", reset_scheduler=True, reset_lr=True
    )
    loop = {
        "model": model,
        "optimizer": optimizer,
        "train_mb_size": entry.batch_size,
        "train_epochs": arguments.epochs,
        "eval_mb_size": 1000,
        "evaluator": EvaluationPlugin(loggers=[]),
    }
    plugin = strategy = None
    if entry.plugin is ByteDER:
        strategy = plugin = ByteDER(**loop, **hyper, plugins=[scheduler])
    elif entry.plugin is not None:
        plugin = entry.plugin(**hyper)
    if strategy is None:
        strategy = Naive(**loop, plugins=[scheduler] if plugin is None else [plugin, scheduler])
    start = time.process_time()
    for experience in experiences:
        strategy.train(experience)
    seconds = time.process_time() - start
    model.eval()
    with torch.no_grad():
        if hasattr(plugin, "method"):
            answers = plugin.method.predict(vectors.float(), torch.zeros_like(labels))
        else:
            answers = model(vectors.float())
    right = (answers.argmax(dim=1) == labels).float()
    parts = [e.classes_in_this_experience for e in benchmark.train_stream]
    first, last = (
        right[torch.isin(labels, torch.tensor(sorted(parts[i])))].mean().item() for i in (0, -1)
    )
    held = plugin.memory_bytes() if hasattr(plugin, "method") else held_bytes(plugin)
    return {
        "accuracy": right.mean().item(),
        "first": first,
        "last": last,
        "bytes": held,
        "seconds": seconds,
    }


def main() -> None:
    """Prints a row for each method, with the standard deviation over the orders."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("features")
    parser.add_argument("--experiences", type=int, default=10)
    parser.add_argument("--orders", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--budget", help="bytes of latent replay and replay, such as 3MB")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--hidden", type=int, default=0, help="units of a hidden layer, 0 for none")
    parser.add_argument("--held-out", type=float, default=0.0, help="share tested on, for settings")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    features = torch.load(arguments.features)
    train, test = features["train"], features["test"]
    if arguments.held_out:
        train, test = hold_out(train, arguments.held_out)
    print("| method | accuracy of each order | mean | sd | first / last | bytes | CPU seconds |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.methods:
        rows = []
        for order in arguments.orders:
            benchmark = stream_of(train, test, arguments.experiences, order)
            rows.append(measure(METHODS[name], benchmark, (train, test), arguments))
        found = [row["accuracy"] for row in rows]
        spread = stdev(found) if len(found) > 1 else 0.0
        each = " ".join(f"{value:.4f}" for value in found)
        middle = {key: mean(row[key] for row in rows) for key in rows[0]}
        print(
            f"| {name} | {each} | {mean(found):.4f} | {spread:.4f} |"
            f" {middle['first']:.3f} / {middle['last']:.3f} | {middle['bytes']:,.0f} |"
            f" {middle['seconds']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

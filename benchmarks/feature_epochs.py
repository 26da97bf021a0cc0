"""Training time of an experience from images, against that from features of them.

    python benchmarks/feature_epochs.py --images 512 --epochs 20

Random images of 64 pixels in ten classes, EfficientNet-B0 without its last layer as the front end
(the time does not depend on its weights), a linear classifier, Adam, batches of 128, Avalanche's
`Naive`. From images the frozen network, or all of it, is run again in each epoch. The features are
computed once. Each number is the median of several repeats, in alternating order.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torchvision
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn
from torch.utils.data import TensorDataset

from avalanche_dgm import feature_stream, front_end
from avalanche_dgm.streams import split

SIDE, CLASSES, VALUES, BATCH = 64, 10, 1280, 128


def network() -> nn.Module:
    """The network without its last layer."""
    model = torchvision.models.efficientnet_b0()
    model.classifier = nn.Identity()
    return model


def seconds_of(model: nn.Module, stream: Any, *, epochs: int) -> float:
    """Training time of the first experience."""
    trained = [p for p in model.parameters() if p.requires_grad]
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(trained, lr=1e-3),
        train_mb_size=BATCH,
        train_epochs=epochs,
        evaluator=EvaluationPlugin(),
    )
    begun = time.perf_counter()
    strategy.train(stream.train_stream[0])
    return time.perf_counter() - begun


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=512, help="training images")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the experience")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each way")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    labels = torch.arange(arguments.images) % CLASSES
    train, test = (
        TensorDataset(torch.rand(len(part), 3, SIDE, SIDE), part)
        for part in (labels, labels[:CLASSES])
    )
    images = split((train, test), n_experiences=1)

    def of_features() -> Any:
        front = front_end(network(), size=SIDE)
        return feature_stream(images, front, progress=False)

    def from_images(*, frozen: bool) -> float:
        """One epoch; all epochs cost the same."""
        body = network().requires_grad_(not frozen)
        return seconds_of(nn.Sequential(body, nn.Linear(VALUES, CLASSES)), images, epochs=1)

    def extraction() -> float:
        begun = time.perf_counter()
        of_features()
        return time.perf_counter() - begun

    features = of_features()
    ways: dict[str, Callable[[], float]] = {
        "images, whole network trained": lambda: arguments.epochs * from_images(frozen=False),
        "images, network frozen": lambda: arguments.epochs * from_images(frozen=True),
        "features, once": extraction,
        "features, training": lambda: seconds_of(
            nn.Linear(VALUES, CLASSES), features, epochs=arguments.epochs
        ),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(arguments.repeats):
        for name in list(ways)[:: 1 if repeat % 2 == 0 else -1]:
            measured[name].append(ways[name]())
    seconds = {name: median(values) for name, values in measured.items()}
    for name, value in seconds.items():
        print(f"{name}: {value:.2f} s")
    training = seconds["features, training"]
    both = training + seconds["features, once"]
    for name in list(ways)[:2]:
        print(
            f"{name}: {seconds[name] / training:.0f} times the time of training on cached"
            f" features, {seconds[name] / both:.1f} times with their computation"
        )


if __name__ == "__main__":
    main()

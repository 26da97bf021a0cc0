"""What an epoch of a new experience costs: latent replay beside Avalanche's loop with ReplayPlugin.

    python benchmarks/latent_epochs.py

Both train the same network on the same number of new and of old samples a step, Avalanche from
images, latent replay on latents that were encoded in the first epoch. The images are noise: only
time is measured, as this process's own, so that others on the machine do not count. Epochs after
the first are counted.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.supervised import Naive
from torch import nn
from torchvision.models import mobilenet_v3_small, resnet18

from avalanche_dgm import AlexNetLike, LatentReplayPlugin, latent_replay_network
from avalanche_dgm.streams.tensors import LabelledImages, Task, build_benchmark

#: Name -> network, shape of an image, last layer of the compressor.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "the paper's": (lambda: latent_replay_network((1, 28, 28), 10), (1, 28, 28), "compressor"),
    "AlexNet-like": (lambda: AlexNetLike((3, 32, 32), 10), (3, 32, 32), "features"),
    "MobileNetV3": (lambda: mobilenet_v3_small(num_classes=10), (3, 64, 64), "avgpool"),
    "ResNet-18": (lambda: resnet18(num_classes=10), (3, 64, 64), "avgpool"),
}


class Clock(SupervisedPlugin):
    """Seconds of this process in each epoch of the experience."""

    supports_distributed = True

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._start = 0.0

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Begins anew."""
        self.seconds = []

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Notes when it began."""
        self._start = time.process_time()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Notes what it took."""
        self.seconds.append(time.process_time() - self._start)


def stream(shape: tuple[int, ...], n: int) -> Any:
    """Two experiences of five classes, n images each."""
    generator = torch.Generator().manual_seed(0)

    def task(classes: range) -> Task:
        labels = torch.tensor(classes).repeat(-(-n // 5))[:n]
        images = torch.rand(n, *shape, generator=generator)
        return Task(LabelledImages(images, labels), 0, "noise")

    tasks = [task(range(5)), task(range(5, 10))]
    return build_benchmark(tasks, tasks, n_classes=10)


def epoch(plugin: Any, name: str, benchmark: Any, *, batch_size: int, epochs: int) -> float:
    """Median seconds of the second experience's epochs after the first."""
    torch.manual_seed(0)
    net, clock = NETWORKS[name][0](), Clock()
    strategy = Naive(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=1e-3),
        train_mb_size=batch_size,
        train_epochs=1,
        plugins=[*([plugin] if plugin is not None else []), clock],
        evaluator=EvaluationPlugin(loggers=[]),
    )
    strategy.train(benchmark.train_stream[0], num_workers=0)
    strategy.train_epochs = epochs
    strategy.train(benchmark.train_stream[1], num_workers=0)
    return median(clock.seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--images", type=int, default=640, help="of each experience")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    n, batch = arguments.images, arguments.batch_size
    print("| network, cut behind | ReplayPlugin, us an image | latent replay | times less |")
    print("|---|---|---|---|")
    for name in arguments.networks:
        _, shape, layer = NETWORKS[name]
        benchmark = stream(shape, n)
        seconds = [
            epoch(plugin, name, benchmark, batch_size=batch, epochs=arguments.epochs)
            for plugin in (
                ReplayPlugin(mem_size=n // 5, batch_size=batch, batch_size_mem=batch),
                LatentReplayPlugin(layer=layer, share=0.2, replay_size=batch, seed=0),
            )
        ]
        theirs, ours = (1e6 * s / n for s in seconds)
        print(
            f"| {name}, `{layer}` | {theirs:.0f} | {ours:.0f} | {theirs / ours:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""How long densities of classes take to draw a step's samples.

    python benchmarks/class_density.py --values 1280 --classes 10 100

Each number is the median of several draws of 128 samples, in milliseconds, after one that is not
counted; beside it, the bytes that the density keeps.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from statistics import median

import torch

from avalanche_dgm.generators import ClassDensity, make_density
from avalanche_dgm.modules import size_in_bytes


def fitted(kind: str, values: int, n_classes: int, device: str) -> ClassDensity:
    """A density of random samples."""
    rng = torch.Generator(device).manual_seed(0)
    density = make_density(kind).to(device)
    for label in range(n_classes):
        samples = torch.randn(64, values, generator=rng, device=device)
        labels = torch.full((len(samples),), label, device=device)
        density.add(samples, torch.zeros_like(labels), labels)
    return density


def main() -> None:
    """Prints one line for each number of classes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=1280, help="values of a sample")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    kinds = ["full", "shared", "low-rank", "mixture"]
    parser.add_argument("--covariance", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--samples", type=int, default=128, help="samples of a step")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    for kind, n_classes in product(options.covariance, options.classes):
        density = fitted(kind, options.values, n_classes, options.device)
        rng = torch.Generator(options.device).manual_seed(0)
        took = []
        for _ in range(options.repeats + 1):
            start = time.perf_counter()
            density.sample(density.classes.balanced(options.samples, rng), rng)
            if options.device != "cpu":
                torch.cuda.synchronize()
            took.append(1000 * (time.perf_counter() - start))
        size = size_in_bytes(density) / 2**20
        print(f"{kind:8} {n_classes:4} classes: {median(took[1:]):7.2f} ms, {size:7.1f} MiB")


if __name__ == "__main__":
    main()

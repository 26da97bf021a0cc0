"""How long densities of classes take to learn, and to draw a step's samples.

    python benchmarks/class_density.py --values 1280 --classes 10 100

The density is a memory of latents, as in latent replay, which draws many steps at once. Printed are
seconds for learning a class of 500, milliseconds of a step of 128 in the mean of many, of the
slowest one (which draws the next ones, too), and of one that is drawn by itself (the median of
five), and the bytes that are kept. Times on the CPU are those of the process, so that they do not
depend on what else runs; OMP_NUM_THREADS=1 for those of one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import product
from statistics import mean, median
from typing import Any

import torch

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.generators import make_density
from avalanche_dgm.memories.generated_latents import GeneratedLatents
from avalanche_dgm.memories.generative import MemorySettings
from avalanche_dgm.modules import size_in_bytes
from avalanche_dgm.randomness import RandomSource

#: What is measured: a name of `make_density` and its options.
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "shared": {},
    "shared, 5 means": {"covariance": "shared", "components": 5},
    "low-rank": {},
    "low-rank, 64 of 4 bits": {"covariance": "low-rank", "rank": 64, "at_rest": "int4"},
    "auto": {},
    "auto, 3 MB": {"covariance": "auto", "memory_budget": "3MB"},
    "diagonal": {},
    "diagonal, 5 of a class": {
        **{"covariance": "diagonal", "components": 5, "tied": "component"},
    },
}


def clock(device: str) -> Callable[[], float]:
    """What measures seconds on a device."""
    return time.process_time if device == "cpu" else time.perf_counter


def learned(kind: str, values: int, n_classes: int, device: str) -> tuple[GeneratedLatents, float]:
    """A memory that has learned random samples, and the seconds for each class."""
    density = make_density(**{"covariance": kind, **KINDS[kind]})
    memory = GeneratedLatents(MemorySettings(generator=density)).to(device)
    random = RandomSource(0)
    spent, now = 0.0, clock(device)
    for label in range(n_classes):
        samples = torch.randn(500, values, generator=random.on(device), device=device)
        labels = torch.full((len(samples),), label, device=device)
        data = ExperienceData(samples, labels, torch.zeros_like(labels), str(label))
        start = now()
        list(memory.learn_latents(data, random))
        spent += now() - start
    return memory, spent / n_classes


def main() -> None:
    """Prints one line for each kind and number of classes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=1280, help="values of a sample")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--samples", type=int, default=128, help="samples of a step")
    parser.add_argument("--steps", type=int, default=101)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    for kind, n_classes in product(options.kinds, options.classes):
        memory, seconds = learned(kind, options.values, n_classes, options.device)
        rng, now = torch.Generator(options.device).manual_seed(0), clock(options.device)
        took = {"blocks": [], "alone": []}
        for way, steps in (("alone", 6), ("blocks", options.steps)):
            for step in range(steps):
                # Another number than at the step before is drawn by itself.
                n = options.samples + (way == "alone") * (step % 2)
                start = now()
                memory.sample(n, rng)
                if options.device != "cpu":
                    torch.cuda.synchronize()
                took[way].append(1000 * (now() - start))
        size = size_in_bytes(memory) / 1e6
        blocks = took["blocks"]
        print(
            f"{kind:22} {n_classes:4} classes: learns one in {seconds:6.3f} s; a step"
            f" {mean(blocks):7.2f} ms, slowest {max(blocks):7.1f}, alone"
            f" {median(took['alone'][1:]):7.2f}; {size:6.1f} MB"
        )


if __name__ == "__main__":
    main()

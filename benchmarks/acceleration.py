"""What ``accelerate=True`` saves of the time of an adversarial training, on the machine at hand.

Both ways train the same networks on the same samples, in turn. Quote the ratio, not the seconds:
below 1 it pays. The two networks are those for digits and, with ``--architecture resnet``, those
for colour photographs in the settings that the package has for CIFAR-10.

    python benchmarks/acceleration.py --device cuda --architecture resnet
"""

from __future__ import annotations

import argparse
import statistics

import torch
from torch import nn

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.fitting import fit
from avalanche_dgm.methods import DynamicMemory
from avalanche_dgm.methods.dynamic_memory import paper_hyper


def seconds(architecture: str, device: str, rounds: int, *, accelerate: bool) -> float:
    """Time of so many rounds of the first experience, after a few that warm up."""
    names = {"dcgan": "mnist", "resnet": "cifar10"}
    hyper = {**paper_hyper(names[architecture]), "class_steps": 0, "generator_epochs": None}
    shape = (1, 32, 32) if architecture == "dcgan" else (3, 32, 32)
    images = torch.rand(1280, *shape, device=device)
    zeros = torch.zeros(len(images), dtype=torch.int64, device=device)
    data = ExperienceData(images, zeros, zeros, "0", "0")
    found = 0.0
    for steps in (3, rounds):
        method = DynamicMemory(
            seed=0, accelerate=accelerate, **{**hyper, "generator_steps": steps}
        ).to(device)
        learner = nn.Sequential(nn.Flatten(), nn.LazyLinear(10)).to(device)
        learner(images[:1])
        method.attach(learner, task_aware=False)
        method.begin(data)
        # The last step looks at the loss, and so waits for the device.
        found = fit(next(iter(method.before_learning(data))), method.rng)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", default="dcgan", choices=("dcgan", "resnet"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    ratios = []
    for _ in range(options.repeats):
        plain, quick = (
            seconds(options.architecture, options.device, options.rounds, accelerate=way)
            for way in (False, True)
        )
        ratios.append(quick / plain)
        print(f"plain {plain:.2f} s, accelerated {quick:.2f} s, ratio {ratios[-1]:.3f}", flush=True)
    print(
        f"ratio on {options.device}: median {statistics.median(ratios):.3f},"
        f" min {min(ratios):.3f}, max {max(ratios):.3f}"
    )


if __name__ == "__main__":
    main()

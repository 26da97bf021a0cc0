"""Accuracy with mixed precision and with accumulated batches beside that of a plain Trainer.

DGR learns the embedded digits, two classes an experience, with the same seeds three ways: in 32
bits, in bfloat16 mixed precision, and with steps of two accumulated batches of half the size.

    python benchmarks/trainer_features.py --seeds 3
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from typing import Any

import torch
from torch import nn

from avalanche_dgm import sklearn_digits
from avalanche_dgm.lightning import DGRModule, fit_stream

BATCH = 32
WAYS: dict[str, dict[str, Any]] = {
    "32 bits": {},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "two batches a step": {"accumulate_grad_batches": 2},
}


def accuracy(seed: int, way: str, epochs: int) -> float:
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU()]
    module = DGRModule(nn.Sequential(*layers, nn.Linear(400, 10)), seed=seed, generator_steps=400)
    settings = WAYS[way]
    result = fit_stream(
        module,
        sklearn_digits(n_experiences=5, seed=seed),
        trainer={"enable_progress_bar": False, "max_epochs": epochs, **settings},
        batch_size=BATCH // settings.get("accumulate_grad_batches", 1),
        seed=seed,
        test="seen",
    )
    return result.average_accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    for way in WAYS:
        values = [accuracy(seed, way, arguments.epochs) for seed in range(arguments.seeds)]
        each = ", ".join(f"{value:.3f}" for value in values)
        print(f"{way}: mean {statistics.mean(values):.3f} ({each})", flush=True)


if __name__ == "__main__":
    main()

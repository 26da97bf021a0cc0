"""Wall time and accuracy beside Avalanche's own `GenerativeReplay`, on split MNIST, 5 x 2 classes.

One machine, one after the other, the same classifier (MLP 2x400, Adam 1e-3, batches of 128) and the
same stream: Avalanche's strategy as it comes, our DGR cut short, and our DGR with its defaults. The
seconds are those of training, evaluation left out. Quote the ratios, not the seconds.

    python benchmarks/generative_replay.py --data-root data --seeds 3
"""

from __future__ import annotations

import argparse
from statistics import mean
from typing import Any

import torch

from avalanche_dgm.experiments import ExperimentConfig
from avalanche_dgm.experiments.runner import run

RUNS: dict[str, dict[str, Any]] = {
    "Avalanche's GenerativeReplay": {"method": "generative-replay", "epochs": 5},
    "DGR, cut short": {
        "method": "dgr",
        "epochs": 3,
        "method_options": {"generator_steps": 300},
    },
    "DGR, defaults": {"method": "dgr", "epochs": 5},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", help="folder of MNIST; default: AVALANCHE_DGM_DATA")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    accuracy: dict[str, list[float]] = {name: [] for name in RUNS}
    seconds: dict[str, list[float]] = {name: [] for name in RUNS}
    for seed in range(options.seeds):
        for name, settings in RUNS.items():
            config = ExperimentConfig.create(
                stream="split-mnist", seed=seed, data_root=options.data_root, **settings
            )
            result = run(config)
            accuracy[name].append(result.average())
            seconds[name].append(result.seconds)
            ratio = result.seconds / seconds[next(iter(RUNS))][-1]
            print(f"seed {seed}  {name:30s} {result.average():.4f}  time x {ratio:.2f}", flush=True)
    print("mean over the seeds")
    base = mean(seconds[next(iter(RUNS))])
    for name in RUNS:
        print(f"{name:30s} {mean(accuracy[name]):.4f}  time x {mean(seconds[name]) / base:.2f}")


if __name__ == "__main__":
    main()

"""Table 5 of the latent replay paper: four cases, three shares; and bytes, or nothing stored.

    python benchmarks/latent_table.py --seeds 0 1 2

Each cell is what ``avalanche-dgm run --method latent-replay --stream latent-split --dataset NAME
--case C --share S --seed N`` computes, digit for digit. The first experience is the same for all
cells of a case and seed, so it is learned once, and the process is forked where they part. What is
measured is kept in ``--out``, and not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from unittest import mock

import torch

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.experiments import runner
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.methods import LatentReplay

CASES = (1, 2, 3, 4)
VARIANTS: dict[str, dict[str, Any]] = {
    "1 %": {"share": 0.01},
    "5 %": {"share": 0.05},
    "25 %": {"share": 0.25},
    "1 %, uint8": {"share": 0.01, "dtype": "uint8"},
    "5 %, uint8": {"share": 0.05, "dtype": "uint8"},
    "1 %, no covariances": {"share": 0.01, "covariance": False},
    "1 %, hard labels": {"share": 0.01, "labels": "hard"},
    "5 %, hard labels": {"share": 0.05, "labels": "hard"},
    "density": {"memory": "density", "covariance": "full", "labels": "soft"},
}
# Test accuracy on new and on original classes of cases 1 to 4 (Saez de Ocariz Borde 2022).
PAPER = {
    "mnist": {
        "1 %": [(0.9685, 0.9392), (0.9891, 0.9594), (0.9749, 0.9788), (0.9686, 0.8732)],
        "5 %": [(0.9658, 0.9555), (0.9905, 0.9667), (0.9764, 0.9800), (0.9669, 0.9569)],
        "25 %": [(0.9667, 0.9787), (0.9717, 0.9658), (0.9620, 0.9811), (0.9680, 0.9779)],
    },
    "fashion-mnist": {
        "1 %": [(0.9500, 0.7959), (0.8988, 0.9211), (0.9546, 0.8345), (0.8931, 0.8974)],
        "5 %": [(0.9477, 0.8500), (0.8912, 0.9426), (0.9531, 0.8600), (0.9008, 0.8722)],
        "25 %": [(0.9468, 0.8831), (0.8897, 0.9540), (0.9401, 0.8779), (0.9028, 0.9100)],
    },
    "kmnist": {
        "1 %": [(0.9697, 0.7282), (0.9631, 0.7825), (0.9737, 0.7067), (0.9668, 0.7751)],
        "5 %": [(0.9674, 0.9108), (0.9665, 0.9631), (0.9703, 0.9083), (0.9645, 0.9223)],
        "25 %": [(0.9626, 0.9506), (0.9668, 0.9663), (0.9728, 0.9091), (0.9637, 0.9525)],
    },
}


class Parting:
    """Goes on from the end of the first experience with each variant, each in a process of its own.

    Args:
        variants: Name -> hyper-parameters of `LatentReplay` that differ.
        seed: The run's.
    """

    def __init__(self, variants: dict[str, dict[str, Any]], seed: int) -> None:
        self.variants, self.seed = variants, seed
        self.name, self.forked = "", False
        self._end = LatentReplay.end

    def run(self, config: ExperimentConfig) -> RunResult:
        """Runs the experiment; it returns once in every process."""
        parting = self

        def end(method: LatentReplay, data: ExperienceData) -> None:
            if method.experiences == 0:
                parting.take_a_way(method)
            parting._end(method, data)

        with mock.patch.object(LatentReplay, "end", end):
            return runner.run(config)

    def take_a_way(self, method: LatentReplay) -> None:
        """Forks for every variant but the last, one after the other."""
        *others, last = self.variants
        self.name = next((name for name in others if self._forked()), last)
        chosen = LatentReplay(seed=self.seed, **self.variants[self.name])
        for name in ("stored", "generated", "labels", "_temperature"):
            setattr(method, name, getattr(chosen, name))

    def _forked(self) -> bool:
        child = os.fork()
        if child and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise RuntimeError("A branch failed; what it said stands above.")
        self.forked = not child
        return self.forked


def measure(
    dataset: str,
    case: int,
    seed: int,
    variants: Sequence[str],
    folder: Path,
    stream: dict[str, Any],
) -> None:
    """Runs those variants of one case and seed that are not measured yet."""
    missing = {
        name: VARIANTS[name]
        for name in variants
        if not path_of(folder, dataset, case, seed, name).exists()
    }
    if not missing:
        return
    parting = Parting(missing, seed)
    options = {"dataset": dataset, "case": case, **stream}
    config = ExperimentConfig.create(
        "latent-replay", "latent-split", seed=seed, stream_options=options
    )
    try:
        result = parting.run(config)
        original, new = result.steps[-1].accuracy
        found = {
            "new": new,
            "original": original,
            "first": result.steps[0].accuracy[0],
            "bytes": result.steps[0].memory_bytes,
        }
        path_of(folder, dataset, case, seed, parting.name).write_text(json.dumps(found))
        print(f"case {case}, seed {seed}, {parting.name}: {new:.4f} / {original:.4f}", flush=True)
    except BaseException:
        if parting.forked:
            traceback.print_exc()
            os._exit(1)
        raise
    if parting.forked:
        os._exit(0)


def path_of(folder: Path, dataset: str, case: int, seed: int, name: str) -> Path:
    """Where a cell's numbers are kept."""
    plain = "".join(c for c in name if c.isalnum())
    return folder / f"{dataset}-{case}-{seed}-{plain}.json"


def table(dataset: str, folder: Path, seeds: Sequence[int]) -> str:
    """The cells measured so far beside the paper's, and what they come to."""
    lines = [
        "| case | memory | new | paper | original | paper | bytes | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    cells: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    gaps, bytes_lost = [], []
    for case in CASES:
        at = {
            name: [
                json.loads(path.read_text())
                for seed in seeds
                if (path := path_of(folder, dataset, case, seed, name)).exists()
            ]
            for name in VARIANTS
        }
        for name, found in at.items():
            if not found:
                continue
            new, original = ([f[key] for f in found] for key in ("new", "original"))
            paper = PAPER.get(dataset, {}).get(name)
            theirs = [f"{value:.4f}" for value in paper[case - 1]] if paper else ["", ""]
            lines.append(
                f"| {case} | {name} | {spread(new)} | {theirs[0]}"
                f" | {spread(original)} | {theirs[1]}"
                f" | {round(mean(f['bytes'] for f in found))} | {len(found)} |"
            )
            cells[name].append((mean(new), mean(original)))
            if paper:
                gaps.append((mean(new) - paper[case - 1][0], mean(original) - paper[case - 1][1]))
        for share in ("1 %", "5 %"):
            pairs = zip(at[share], at[f"{share}, uint8"], strict=False)
            bytes_lost += [a["original"] - b["original"] for a, b in pairs]
    if gaps:
        new, original = (mean(gap[i] for gap in gaps) for i in (0, 1))
        worst = min(gap[1] for gap in gaps)
        lines.append(
            f"\n{len(gaps)} cells against the paper: new {new:+.4f}, original {original:+.4f};"
            f" worst original {worst:+.4f}"
        )
    if cells["density"]:
        lines.append(
            f"nothing stored: original {mean(c[1] for c in cells['density']):.4f},"
            f" mean of {len(cells['density'])} cases"
        )
    if bytes_lost:
        lines.append(
            f"uint8 loses {mean(bytes_lost):+.4f} of original, mean of {len(bytes_lost)} pairs"
        )
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean, and standard deviation of several."""
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="mnist", choices=[*PAPER, "sklearn-digits"])
    parser.add_argument("--cases", type=int, nargs="+", default=list(CASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--memories", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("runs/latent-table"))
    parser.add_argument("--fraction", type=float, default=1.0, help="of the images")
    parser.add_argument("--show", action="store_true", help="measure nothing more")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.show:
        for seed in arguments.seeds:
            for case in arguments.cases:
                stream = {} if arguments.fraction == 1 else {"fraction": arguments.fraction}
                measure(arguments.dataset, case, seed, arguments.memories, arguments.out, stream)
    print(table(arguments.dataset, arguments.out, arguments.seeds))


if __name__ == "__main__":
    main()

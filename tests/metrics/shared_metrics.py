"""What the torchmetrics say of random streams and samples, each process counting its share.

Usage: shared_metrics.py, with RANK, WORLD_SIZE and the address in the environment: prints a line of
JSON. Tests import `everything` and let one process count all.
"""

import json
import os
import random
import sys
from pathlib import Path

import torch
from torch import nn
from torchmetrics import MetricCollection

from avalanche_dgm import metrics

SUMMARIES = (
    metrics.AverageAccuracy,
    metrics.AverageAnytimeAccuracy,
    metrics.BackwardTransfer,
    metrics.Forgetting,
    metrics.ForwardTransfer,
    metrics.LearningAccuracy,
    metrics.Retention,
)
SEEDS = range(60)


def stream(seed):
    """Lengths of a stream, and its batches: answers, labels and where they belong."""
    rng = random.Random(seed)
    height, width = rng.randint(1, 8), rng.randint(1, 8)
    width = height if rng.random() < 0.6 else width
    gaps, through = rng.choice([0.0, 0.0, 0.3]), rng.randint(1, height)
    batches = []
    for step in range(through):
        for experience in range(width):
            if rng.random() < gaps:
                continue
            skill = rng.random()
            for _ in range(rng.randint(1, 3)):
                labels = [rng.randrange(4) for _ in range(rng.randint(1, 9))]
                answers = [y if rng.random() < skill else rng.randrange(4) for y in labels]
                batches.append((answers, labels, {"step": step, "experience": experience}))
    return height, width, batches


def samples(seed, n=90):
    """Real and generated features of unequal batches, a few of them of no sample."""
    rng = torch.Generator().manual_seed(seed)
    real = torch.randn(n, 6, generator=rng) @ torch.randn(6, 6, generator=rng)
    made = 1.3 * torch.randn(n - 20, 6, generator=rng) + 0.4
    cuts = [0, 7, 30, 30, 55]
    return [
        (torch.tensor_split(features, cuts[1:]), is_real)
        for features, is_real in ((real, True), (made, False))
    ]


def labelled(seed):
    """Labels, and the answers of a classifier to samples of them."""
    rng = torch.Generator().manual_seed(seed)
    for size in (5, 17, 0, 8, 31):
        yield (
            torch.randint(6, (size, 7), generator=rng).float(),
            torch.randint(1, 5, (size,), generator=rng),
        )


def module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh())


def everything(rank=0, n=1):
    """All values, counting the batches of one of n processes, by name."""
    found = {}
    for seed in SEEDS:
        height, width, batches = stream(seed)
        each = [kind(height, n_test=width) for kind in SUMMARIES]
        collection = MetricCollection(each)
        for answers, labels, where in batches[rank::n]:
            collection.update(torch.tensor(answers), torch.tensor(labels), **where)
        for name, value in collection.compute().items():
            found[f"{name} {seed}"] = float(value)
    found |= _of_samples(rank, n)
    found |= _of_costs(rank, n)
    return found


def _of_samples(rank, n):
    pixels = metrics.FrechetDistance(n_features=6)
    described = metrics.FrechetDistance(module(), n_features=4)
    near = metrics.DensityCoverage(6)
    error = metrics.ReconstructionError()
    # A second one of each, of which only the first process sees anything.
    once = metrics.FrechetDistance(n_features=6)
    alone = metrics.DensityCoverage(6, k=2)
    for batches, is_real in samples(1):
        for i, batch in enumerate(batches):
            if i % n == rank:
                for metric in (pixels, described, near):
                    metric.update(batch, real=is_real)
                error.update(batch, batch.sin())
            if rank == 0:
                for metric in (once, alone):
                    metric.update(batch, real=is_real)
    agreement = [metrics.LabelAgreement(6, average=a) for a in ("micro", "macro", "none")]
    classes = metrics.ClassCoverage(6, known=[1, 2, 3, 4, 5])
    for i, (answers, labels) in enumerate(labelled(2)):
        if i % n == rank:
            for metric in agreement:
                metric.update(answers, labels)
            classes.update(labels)
    found = {
        "pixels": pixels.compute(),
        "described": described.compute(),
        "once": once.compute(),
        **{f"near {k}": v for k, v in near.compute().items()},
        **{f"alone {k}": v for k, v in alone.compute().items()},
        **{f"error {k}": v for k, v in error.compute().items()},
        **{f"classes {k}": v for k, v in classes.compute().items()},
        "micro": agreement[0].compute(),
        "macro": agreement[1].compute(),
        **{f"agreement {i}": v for i, v in enumerate(agreement[2].compute())},
    }
    assert len(near.metric_state["real"]) > (1 if n == 1 else 0), "its own samples are back"
    return {name: float(value) for name, value in found.items()}


def _of_costs(rank, n):
    cost, size = metrics.Cost(["generator", "sleep"]), metrics.MemorySize()
    for step in range(3):
        # Every process takes as long, but the last one a little longer.
        seconds = {"generator": 1.0, "sleep: 1, 2": 0.5, "sleep: 3": 0.25, "strange": 2.0}
        longer = 1.0 if rank == n - 1 else 0.9
        spent = {name: value * longer for name, value in seconds.items()}
        cost.update(spent, shown=120 // n, seconds=5.0 * longer + step)
    size.update(module())
    values = {**cost.compute(), **size.compute()}
    return {f"cost {name}": float(value) for name, value in values.items()}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from driver import leave

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    values = everything(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    print(json.dumps(values))
    torch.distributed.barrier()
    leave()

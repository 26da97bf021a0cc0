"""Ostapenko et al. 2019, "Learning to Remember": Table 1 and Figures 2 to 7."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.planning import Configs
from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.experiments.sweep import buffer_of
from avalanche_dgm.metrics.log_files import in_order, read_log
from avalanche_dgm.papers.exhibits import Curves, Exhibit, Request, Shown, Trained
from avalanche_dgm.plots import ostapenko2019

TITLE = "Ostapenko et al. 2019, Learning to Remember (dynamic generative memory)"

_MEMORY, _AUTHORS, _JOINT = "dynamic-memory-discriminator", "dynamic-memory-paper", "joint"
#: Sizes of buffers of real images, as fractions of the dynamic memory's bytes.
_SHARES = {"1/16": 16, "1/4": 4, "1": 1}
_A5, _A10 = "A5", "A10"
_FIRST = "joint, first half"


def _table_plan(request: Request) -> Configs:
    few = {"method_options": {"generator_epochs": None}}
    configs = request.plan("ostapenko2019-table1", fast=few)
    if request.defaults:
        configs = {row: seeds for row, seeds in configs.items() if row != _AUTHORS}
    everything = request.plan("ostapenko2019-joint")["gan-replay"]
    half = [_of_half(config) for config in everything]
    return {**configs, _FIRST: half, _JOINT: everything}


def _of_half(config: ExperimentConfig) -> ExperimentConfig:
    """Only the first five of the ten classes: one of two experiences."""
    return config.replace(stream_options={**config.stream_options, "n_experiences": 2})


def _buffers(request: Request, trained: Trained) -> Configs:
    """Buffers of real images, with fractions of the dynamic memory's final size in bytes."""
    configs: dict[str, list[ExperimentConfig]] = {}
    for result in trained.results.get(_MEMORY, ()):
        whole = buffer_of(result)
        if whole is None:
            continue
        for share, divisor in _SHARES.items():
            budget = whole.method_options["memory_budget"] // divisor
            config = whole.replace(method_options={"memory_budget": max(budget, 2000)})
            configs.setdefault(f"real images, {share} of its bytes", []).append(config)
    return configs


def _table(trained: Trained) -> Shown:
    """Accuracy after five and ten classes, and of generated images (Table 1)."""
    measures: dict[str, Callable[[RunResult], float | None]] = {
        _A10: partial(_after, 10),
        _A5: partial(_after, 5),
        "generated A10": partial(_generated, 10),
        "generated A5": partial(_generated, 5),
    }
    columns = {name: trained.each(measure) for name, measure in measures.items()}
    cells: dict[str, dict[str, Sequence[float | None]]] = {
        row: {name: values[row] for name, values in columns.items() if any(_known(values[row]))}
        for row in trained.results
    }
    if {_FIRST, _JOINT} <= set(cells):
        half, whole = (trained.each(lambda run: run.average())[row] for row in (_FIRST, _JOINT))
        cells[_JOINT] = {_A10: whole, _A5: half}
        del cells[_FIRST]
    notes = [
        "iCaRL, EWC, RWalk, SI and buffers have the command line's network, the others the"
        " discriminator. The paper's -S rows are of five experiences of two classes."
    ]
    return Shown(cells, notes=notes)


def _known(values: Sequence[float | None]) -> list[bool]:
    return [value is not None for value in values]


def _after(n: int, result: RunResult) -> float | None:
    """The average accuracy on the first n classes after they were learned."""
    return result.averages[n - 1] if len(result.averages) >= n else None


def _generated(n: int, result: RunResult) -> float | None:
    return result.steps[n - 1].generated_accuracy if len(result.steps) >= n else None


def _log(draw: Callable[[Any], Figure], read: Callable[[Path], Any], trained: Trained) -> Shown:
    """A figure of the first seed's log, and numbers of all seeds."""
    row, runs = next(iter(trained.runs.items()))
    logs: list[Mapping[str, tuple[Sequence[float], Sequence[float]]]]
    logs = [read(run.folder) for run in runs]
    curves = {
        quantity: Curves(logs[0][quantity][0], {row: [log[quantity][1] for log in logs]})
        for quantity in logs[0]
    }
    cells = {row: {name: [lines[-1] for lines in c.rows[row]] for name, c in curves.items()}}
    notes = ["A fast run is of MNIST, whatever the paper shows."] if trained.request.fast else []
    return Shown(cells, curves, {"": draw(runs[0].folder)}, notes)


def _unchanged(folder: Path) -> dict[str, Any]:
    """Fraction of old classes whose images are bit-identical."""
    rows = read_log(folder / "samples.csv", "class", "sha256")
    first: dict[str, str] = {}
    same: dict[int, list[bool]] = {}
    for row in rows:
        if row["class"] in first:
            kept = row["sha256"] == first[row["class"]]
            same.setdefault(int(row["experience"]), []).append(kept)
        first.setdefault(row["class"], row["sha256"])
    shares = [sum(kept) / len(kept) for kept in same.values()]
    return {"share of old classes whose images are unchanged": ([*same], shares)}


def _distances(folder: Path) -> dict[str, Any]:
    rows = read_log(folder / "quality.csv", "class", "fid")
    rows = rows[rows["class"] == "all"]
    values = (rows["experience"].tolist(), rows["fid"].tolist())
    return {"Frechet distance of all classes": values}


def _capacity(folder: Path) -> dict[str, Any]:
    """Units of all layers, relative to the worst case."""
    rows = read_log(folder / "usage.csv", "width", "reserved", "reused")
    tasks, index = np.unique(rows["experience"].astype(int), return_inverse=True)
    width, reserved, reused = (
        np.bincount(index, rows[name]) for name in ("width", "reserved", "reused")
    )
    shares = {
        "newly blocked / all": reserved / width,
        "reused / all": reused / width,
        "all / worst case": width / (width[0] * np.arange(1, len(width) + 1)),
    }
    return {name: (tasks.tolist(), values.tolist()) for name, values in shares.items()}


def _settling(folder: Path) -> dict[str, Any]:
    """Mean and standard deviation of the middle layer's mask in the first task."""
    rows = read_log(folder / "masks.csv", "layer", "step", "soft_mean", "soft_std")
    layers = in_order(rows["layer"])
    layer = layers[len(layers) // 2]
    selected = rows[(rows["layer"] == layer) & (rows["experience"] == 0)]
    x = selected["step"].tolist()
    return {
        f"{name} of the mask, {layer}": (x, selected[column].tolist())
        for name, column in (("mean", "soft_mean"), ("standard deviation", "soft_std"))
    }


def _accuracy_by_class(trained: Trained) -> Shown:
    """Accuracy on each class since it was learned (Fig. 3)."""
    from avalanche_dgm.plots import kamra2017

    row, results = next(iter(trained.results.items()))
    x = list(range(1, len(results[0].order) + 1))
    curves = {"average of the classes so far": Curves(x, {row: [r.averages for r in results]})}
    cells = {row: {_A10: [_after(10, r) for r in results], _A5: [_after(5, r) for r in results]}}
    return Shown(cells, curves, {"": kamra2017.accuracy_per_task(trained.results)})


#: Settings of a fast run, which only needs MNIST and no residual network.
_ON_MNIST = {"stream": "digits", "method_options": {"configuration": "mnist"}}


def _figure(
    number: int, title: str, shows: str, show: Callable[[Trained], Shown], recipe: str
) -> Exhibit:
    def plan(request: Request) -> Configs:
        return request.plan(recipe, fast=_ON_MNIST)

    return Exhibit(f"ostapenko2019-fig{number}", f"Figure {number}: {title}", shows, show, plan)


_MNIST, _CIFAR = "ostapenko2019-mnist", "ostapenko2019-cifar10"

EXHIBITS = (
    Exhibit(
        "ostapenko2019-table1",
        "Table 1: accuracy after five and ten classes of MNIST",
        "Dynamic memory is above all methods that generate or hold weights, and on MNIST above"
        " joint training. Its rows of other generators are of another measure.",
        _table,
        _table_plan,
        _buffers,
        [(_MEMORY, other, _A10) for other in ("mergan", "gan-replay", "ewc-generator")],
        settings="Defaults of this package, GANs with 10 epochs per class; dynamic-memory-paper"
        " with the authors' settings",
    ),
    _figure(
        2,
        "generated samples of all classes after each of ten tasks of MNIST",
        "All classes learned before can still be generated.",
        partial(_log, ostapenko2019.samples, _unchanged),
        _MNIST,
    ),
    _figure(
        3,
        "accuracy on each class over ten tasks of CIFAR-10",
        "High on the class learned last, and lower with each that follows.",
        _accuracy_by_class,
        _CIFAR,
    ),
    _figure(
        4,
        "Frechet distance over tasks of CIFAR-10",
        "It does not rise for classes that were learned before.",
        partial(_log, ostapenko2019.distances, _distances),
        _CIFAR,
    ),
    _figure(
        5,
        "generated samples of CIFAR-10",
        "Little to no quality is lost of classes that were learned before.",
        partial(_log, ostapenko2019.samples, _unchanged),
        _CIFAR,
    ),
    _figure(
        6,
        "use of the generator's units over ten tasks of MNIST",
        "More and more units are reused, fewer newly blocked; the network grows less than in the"
        " worst case, in which it grows by its first size with each task.",
        partial(_log, ostapenko2019.usage, _capacity),
        _MNIST,
    ),
    _figure(
        7,
        "how masks settle while a task is learned",
        "Masks begin at one half and end binary; the standard deviation of their values rises.",
        partial(_log, ostapenko2019.masks, _settling),
        _MNIST,
    ),
)

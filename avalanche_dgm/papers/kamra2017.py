"""Kamra et al. 2017, "Deep Generative Dual Memory Network", Figures 3 to 8."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.metrics.functional import mean
from avalanche_dgm.papers import kamra2017_memories
from avalanche_dgm.papers.exhibits import Curves, Exhibit, Shown, Trained
from avalanche_dgm.plots import kamra2017

TITLE = "Kamra et al. 2017, Deep Generative Dual Memory Network"

_AVERAGE = "average of all tasks"
_LAST = "average of the last ten"
_LAST_TWO = "last two tasks when just learned"
_SECONDS = "seconds of training"
#: The curves of all figures but Figure 8a.
_SO_FAR = "average of the tasks so far"
#: Number of tasks in a fast run, more than the last ten.
_FAST_TASKS = 12


def _each_task(draw: Callable[[Any], Figure], trained: Trained) -> Shown:
    """Accuracy on each task since it was learned, one panel per method (Fig. 3, 4, 6)."""
    curves = {}
    for row, results in trained.results.items():
        x = list(range(1, len(results[0].order) + 1))
        lines = {
            f"task {j + 1}": [_from_when_learned(result, j) for result in results]
            for j in range(len(results[0].tasks))
        }
        curves[f"accuracy by task, {row}"] = Curves(x, lines)
    columns: dict[str, Callable[[RunResult], float | None]] = {
        _AVERAGE: _final,
        "forgetting": _forgetting,
        _LAST_TWO: _last_two,
    }
    order = next(iter(trained.results.values()))[0].order
    for i, task in enumerate(order):
        if task in order[:i]:
            columns[f"task {task + 1} before it comes again"] = partial(_at, i - 1, task)
            columns[f"task {task + 1} then"] = partial(_at, i, task)
    curves[_SO_FAR] = trained.averages()
    return Shown(trained.table(columns), curves, {"": draw(trained.results)})


def _average(draw: Callable[[Any], Figure], trained: Trained) -> Shown:
    """Average accuracy on the tasks so far, one line per method (Fig. 5, 8b)."""
    cells = trained.table({_AVERAGE: _final, "forgetting": _forgetting})
    return Shown(cells, {_SO_FAR: trained.averages()}, {"": draw(trained.results)})


def _accuracies_by_average(results: Any) -> Figure:
    return kamra2017.average_accuracy(results, reference="joint" if "joint" in results else None)


def _long(trained: Trained) -> Shown:
    """Average accuracies on all tasks so far and on the last ten (Fig. 7)."""
    rows = trained.results
    recent = {row: [r.recent_averages(10) for r in results] for row, results in rows.items()}
    averages = trained.averages()
    return Shown(
        trained.table({_AVERAGE: _final, _LAST: lambda run: run.recent_averages(10)[-1]}),
        {_SO_FAR: averages, "average of the last ten tasks": Curves(averages.x, recent)},
        {"": kamra2017.long_stream(rows)},
    )


def _time(trained: Trained) -> Shown:
    """Training time of each method (Fig. 8a)."""
    seconds = {row: [run.seconds for run in runs] for row, runs in trained.results.items()}
    if {"dgr", "dgdmn"} <= set(seconds):
        pairs = zip(seconds["dgr"], seconds["dgdmn"], strict=True)
        seconds["dgr / dgdmn"] = [slow / fast for slow, fast in pairs]
    cells = {row: {_SECONDS: values} for row, values in seconds.items()}
    return Shown(cells, {}, {"": kamra2017.training_time(trained.results)})


def _from_when_learned(result: RunResult, task: int) -> list[float | None]:
    first = next(i for i, step in enumerate(result.steps) if step.experience == task)
    return [None if i < first else row[task] for i, row in enumerate(result.matrix)]


def _final(result: RunResult) -> float:
    return result.average()


def _last_two(result: RunResult) -> float:
    """Accuracy on the last two tasks when just learned, which measures plasticity."""
    firsts = [i for i, task in enumerate(result.order) if task not in result.order[:i]]
    return mean([result.matrix[i][result.order[i]] for i in firsts[-2:]])


def _at(step: int, task: int, result: RunResult) -> float | None:
    return result.matrix[step][task]


def _forgetting(result: RunResult) -> float | None:
    return result.forgetting


_VERSUS = (("dgdmn", "dgr", _AVERAGE), ("dgdmn", "ewc", _AVERAGE))
_FEW = {"n_experiences": _FAST_TASKS}


def _figure(short: str, show: Callable[[Trained], Shown], *aliases: str, **more: Any) -> Exhibit:
    return Exhibit.of_recipe(f"kamra2017-{short}", show, aliases=(short, *aliases), **more)


_PER_TASK = partial(_each_task, kamra2017.accuracy_per_task)
_ACCURACIES = partial(_average, _accuracies_by_average)
EXHIBITS = (
    _figure("fig3", _PER_TASK, differences=(*_VERSUS, ("dgdmn", "ewc", _LAST_TWO))),
    _figure("fig4", _PER_TASK, differences=_VERSUS),
    _figure("fig5a", _ACCURACIES, differences=_VERSUS),
    _figure("fig5b", _ACCURACIES, "fig5", differences=_VERSUS),
    _figure("fig6", partial(_each_task, kamra2017.revision), differences=_VERSUS[1:]),
    _figure(
        "fig7",
        _long,
        fast=_FEW,
        title="Figure 7: accuracy over forty tasks of TDigits",
        differences=[("dgdmn", "dgr", _AVERAGE), ("dgdmn", "dgr", _LAST)],
    ),
    _figure(
        "fig8a",
        _time,
        recipe="kamra2017-fig7",
        fast=_FEW,
        title="Figure 8a: training time of forty tasks of TDigits",
        shows="DGDMN takes about a tenth of the time of DGR.",
    ),
    _figure(
        "fig8b",
        partial(_average, kamra2017.short_term_memory),
        differences=[("dgdmn-no-stm", "dgdmn", _AVERAGE)],
    ),
    *kamra2017_memories.EXHIBITS,
)

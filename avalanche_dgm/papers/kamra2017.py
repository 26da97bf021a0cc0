"""Kamra et al. 2017, "Deep Generative Dual Memory Network", Figures 3 to 8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from avalanche_dgm.experiments import recipes
from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.metrics.functional import mean
from avalanche_dgm.papers import kamra2017_memories
from avalanche_dgm.papers.exhibits import Curves, Exhibit, Request, Shown, Trained
from avalanche_dgm.plots import kamra2017

TITLE = "Kamra et al. 2017, Deep Generative Dual Memory Network"

_AVERAGE = "average of all tasks"
_LAST = "average of the last ten"
_LAST_TWO = "last two tasks when just learned"
_SECONDS = "seconds of training"
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
    return Shown(
        _columns(columns, trained), {**curves, **_averages(trained)}, {"": draw(trained.results)}
    )


def _average(draw: Callable[[Any], Figure], trained: Trained) -> Shown:
    """Average accuracy on the tasks so far, one line per method (Fig. 5, 8b)."""
    cells = _columns({_AVERAGE: _final, "forgetting": _forgetting}, trained)
    return Shown(cells, _averages(trained), {"": draw(trained.results)})


def _accuracies_by_average(results: Any) -> Figure:
    return kamra2017.average_accuracy(results, reference="joint" if "joint" in results else None)


def _long(trained: Trained) -> Shown:
    """Average accuracies on all tasks so far and on the last ten (Fig. 7)."""
    rows = trained.results
    recent = {row: [r.recent_averages(10) for r in results] for row, results in rows.items()}
    x = _averages(trained)["average of the tasks so far"].x
    return Shown(
        _columns({_AVERAGE: _final, _LAST: lambda run: run.recent_averages(10)[-1]}, trained),
        {**_averages(trained), "average of the last ten tasks": Curves(x, recent)},
        {"": kamra2017.long_stream(rows)},
    )


def _time(trained: Trained) -> Shown:
    """Training time of each method (Fig. 8a)."""
    cells = _columns({_SECONDS: lambda run: run.seconds}, trained)
    if {"dgr", "dgdmn"} <= set(cells):
        pairs = zip(cells["dgr"][_SECONDS], cells["dgdmn"][_SECONDS], strict=True)
        cells["dgr / dgdmn"] = {_SECONDS: [slow / fast for slow, fast in pairs]}
    return Shown(cells, {}, {"": kamra2017.training_time(trained.results)})


def _columns(
    measures: Mapping[str, Callable[[RunResult], float | None]], trained: Trained
) -> dict[str, dict[str, Any]]:
    columns = {name: trained.each(measure) for name, measure in measures.items()}
    return {row: {name: values[row] for name, values in columns.items()} for row in trained.results}


def _averages(trained: Trained) -> dict[str, Curves]:
    rows = {row: [r.averages for r in results] for row, results in trained.results.items()}
    x = list(range(1, len(next(iter(trained.results.values()))[0].order) + 1))
    return {"average of the tasks so far": Curves(x, rows)}


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


def _of_recipe(
    short: str,
    show: Callable[[Trained], Shown],
    *,
    recipe: str | None = None,
    fast: Mapping[str, Any] | None = None,
    title: str | None = None,
    shows: str | None = None,
    **more: Any,
) -> Exhibit:
    name = recipe or f"kamra2017-{short}"
    content = recipes.load(name)

    def plan(request: Request) -> recipes.Configs:
        return request.plan(name, fast=fast)

    return Exhibit(
        f"kamra2017-{short}",
        title or content["description"],
        shows or content["shows"],
        show,
        plan,
        aliases=(short, *more.pop("aliases", ())),
        **more,
    )


_VERSUS = (("dgdmn", "dgr", _AVERAGE), ("dgdmn", "ewc", _AVERAGE))
_FEW = {"n_experiences": _FAST_TASKS}

EXHIBITS = (
    _of_recipe(
        "fig3",
        partial(_each_task, kamra2017.accuracy_per_task),
        differences=(*_VERSUS, ("dgdmn", "ewc", _LAST_TWO)),
    ),
    _of_recipe("fig4", partial(_each_task, kamra2017.accuracy_per_task), differences=_VERSUS),
    _of_recipe("fig5a", partial(_average, _accuracies_by_average), differences=_VERSUS),
    _of_recipe(
        "fig5b",
        partial(_average, _accuracies_by_average),
        differences=_VERSUS,
        aliases=("fig5",),
    ),
    _of_recipe("fig6", partial(_each_task, kamra2017.revision), differences=_VERSUS[1:]),
    _of_recipe(
        "fig7",
        _long,
        fast=_FEW,
        title="Figure 7: accuracy over forty tasks of TDigits",
        differences=[("dgdmn", "dgr", _AVERAGE), ("dgdmn", "dgr", _LAST)],
    ),
    _of_recipe(
        "fig8a",
        _time,
        recipe="kamra2017-fig7",
        fast=_FEW,
        title="Figure 8a: training time of forty tasks of TDigits",
        shows="DGDMN takes about a tenth of the time of DGR.",
    ),
    _of_recipe(
        "fig8b",
        partial(_average, kamra2017.short_term_memory),
        differences=[("dgdmn-no-stm", "dgdmn", _AVERAGE)],
    ),
    *kamra2017_memories.EXHIBITS,
)

"""Furlanello et al. 2016, "Active Long Term Memory Networks": Figures 1 to 3, Table 1.

A rendered turntable replaces iLab-20M, and digits replace ImageNet.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from avalanche_dgm.experiments import deep_linear
from avalanche_dgm.experiments.planning import Configs
from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.metrics.functional import mean
from avalanche_dgm.metrics.stream_accuracies import EpochAccuracy
from avalanche_dgm.papers.exhibits import Curves, Exhibit, Request, Shown, Trained
from avalanche_dgm.plots import furlanello2016

TITLE = "Furlanello et al. 2016, Active Long Term Memory Networks"


def _interference(trained: Trained) -> Shown:
    """Two equal tasks, one head each, in deep linear networks (Fig. 1)."""
    request = trained.request
    results = [deep_linear.run(deep_linear.Settings(seed=seed)) for seed in request.seeds]
    curves = {}
    for name, panel in results[0].panels.items():
        rows = {
            f"task {'AB'[task]}": [r.panels[name].errors[:, task].tolist() for r in results]
            for task in range(2)
        }
        curves[f"error, {panel.title}"] = Curves(range(len(panel.errors)), rows)
    return Shown(
        {
            "A, then B": {"rise of A's error": [r.interference["a"] for r in results]},
            "A, then A and B": {"rise of A's error": [r.interference["b"] for r in results]},
            "in turns": {"epochs later than both at once": [r.delay for r in results]},
        },
        curves,
        {"": furlanello2016.interference(results[0])},
    )


_ALONE, _SEQUENTIAL = "ST, Gauss init", "ST, iLab init"
_NAIVE, _REPLAY = "A-LTM naive", "A-LTM replay"
#: The table's rows and their methods in the recipe.
_ROWS = {
    _SEQUENTIAL: "naive",
    "multi-domain, Gauss init": "joint",
    "multi-domain, iLab init": "cumulative",
    _NAIVE: "altm",
    _REPLAY: "altm-stored",
}
_NEW, _OLD, _CATEGORIES = "new domain", "viewpoints", "categories"
#: Options of the rendered objects in a fast run.
_FEW = {"n_train": 1, "n_test": 1, "size": 8, "fraction": 0.3}


def _plan_domains(request: Request) -> Configs:
    name, fast = "furlanello2016-table1", {"stream_options": _FEW}
    alone = request.plan(name, fast=fast, methods=["naive"], stream_options={"alone": True})
    configs = request.plan(name, fast=fast)
    return {_ALONE: alone["naive"], **{row: configs[method] for row, method in _ROWS.items()}}


def _plan_memory(request: Request) -> Configs:
    planned = _plan_domains(request)
    return {row: planned[row] for row in (_SEQUENTIAL, _NAIVE, _REPLAY)}


def _task(result: RunResult, column: str) -> str:
    """The task of a column; ``_NEW`` is the domain that is learned last."""
    if column != _NEW:
        return column
    return next(name for name in result.tasks if name not in (_OLD, _CATEGORIES))


def _after(step: int, column: str, result: RunResult) -> float | None:
    return result.on(_task(result, column), step)


def _domains(trained: Trained) -> Shown:
    """Accuracies on the new domain and on the old tasks (Table 1)."""
    cells = trained.table({t: partial(_after, -1, t) for t in (_NEW, _OLD, _CATEGORIES)})
    before = trained.table({t: partial(_after, 0, t) for t in (_OLD, _CATEGORIES)})
    if _ALONE in cells:
        cells[_ALONE] = {_NEW: cells[_ALONE][_NEW]}
    for row in {_SEQUENTIAL, _NAIVE, _REPLAY} & set(cells):
        pairs = zip(cells[row][_OLD], before[row][_OLD], strict=True)
        cells[row]["retention of viewpoints"] = [a / b if a and b else None for a, b in pairs]
    if _SEQUENTIAL in before:
        cells["N, before the new domain"] = before[_SEQUENTIAL]
    return Shown(cells)


def _memory(trained: Trained) -> Shown:
    """Accuracy on the viewpoints over the epochs of the new domain (Fig. 3)."""
    drawn, cells = {}, {}
    lines: dict[str, dict[str, Any]] = {_OLD: {}, _NEW: {}}
    for row, results in trained.results.items():
        for task, rows in lines.items():
            rows[row] = [_by_epoch(result, task) for result in results]
        columns = [zip(*lines[task][row], strict=True) for task in (_OLD, _NEW)]
        pairs = enumerate(zip(*columns, strict=True))
        drawn[row] = [EpochAccuracy(epoch, mean(old), mean(new)) for epoch, (old, new) in pairs]
        old = lines[_OLD][row]
        cells[row] = {
            "viewpoints before": [line[0] for line in old],
            "viewpoints at their lowest": [min(line) for line in old],
            "viewpoints at last": [line[-1] for line in old],
        }
    epochs = range(max(len(table) for table in drawn.values()))
    return Shown(
        cells,
        {task: Curves(epochs, rows) for task, rows in lines.items()},
        {"": furlanello2016.memory_by_epoch(drawn)},
    )


def _by_epoch(result: RunResult, task: str) -> list[float]:
    place = result.tasks.index(_task(result, task))
    return [float(row[place] or 0.0) for row in result.steps[-1].by_epoch]


#: The order of tasks in Figure 2b, by the first one.
_ORDERS = {"category": "category-viewpoint", "viewpoint": "viewpoint-category"}


def _plan_factors(request: Request) -> Configs:
    configs: Configs = {}
    for first, order in _ORDERS.items():
        second = next(other for other in _ORDERS if other != first)
        planned = request.plan(
            "furlanello2016-fig2",
            fast={"stream_options": _FEW},
            stream_options={"order": order},
        )
        configs[f"{first}, then {second}"] = planned["naive"]
        configs.setdefault("multi-task", planned["joint"])
    return configs


def _factors(trained: Trained) -> Shown:
    """Categories and viewpoints of the same images, alone, in sequence and jointly (Fig. 2b)."""
    tasks = {"category": _CATEGORIES, "viewpoint": _OLD}
    cells: dict[str, dict[str, list[float | None]]] = {}
    after = trained.table({name: partial(_after, -1, task) for name, task in tasks.items()})
    alone = trained.table({name: partial(_after, 0, task) for name, task in tasks.items()})
    for row, values in after.items():
        first = row.partition(",")[0]
        if first in tasks:
            cells[f"ST-{first}"] = {first: alone[row][first]}
        cells[row] = values
    return Shown(cells)


EXHIBITS = (
    Exhibit(
        "furlanello2016-fig1",
        "Figure 1: two equal tasks, one head each, in deep linear networks",
        "Learning the same task again with another head disturbs the old head; learning both at"
        " once does not. In turns it disturbs less each time, and takes over 100 epochs longer.",
        _interference,
        aliases=("altm-fig1",),
    ),
    Exhibit(
        "furlanello2016-fig2",
        "Figure 2b: categories and viewpoints of the same images, alone, in turn and at once",
        "Learning the other task wipes the first one to chance; viewpoints help categories; both at"
        " once are as good as each alone.",
        _factors,
        _plan_factors,
        aliases=("altm-fig2",),
    ),
    Exhibit(
        "furlanello2016-table1",
        "Table 1: viewpoints (and categories), then another domain, six ways",
        "Going on with the new domain wipes the viewpoints; A-LTM without old images keeps part of"
        " them, with replay all, at a small cost on the new domain.",
        _domains,
        _plan_domains,
        differences=[
            (_REPLAY, _NAIVE, _OLD),
            (_NAIVE, _SEQUENTIAL, _OLD),
            (_REPLAY, _SEQUENTIAL, _NEW),
        ],
        aliases=("altm-table1",),
    ),
    Exhibit(
        "furlanello2016-fig3",
        "Figure 3: what is left of the viewpoints over the epochs of the new domain",
        "With and without replay the viewpoints drop first; with replay they recover fully.",
        _memory,
        _plan_memory,
        aliases=("altm-fig3",),
    ),
)

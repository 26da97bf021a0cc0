"""Furlanello et al. 2016, "Active Long Term Memory Networks": Figure 1."""

from __future__ import annotations

from avalanche_dgm.experiments import deep_linear
from avalanche_dgm.papers.exhibits import Curves, Exhibit, Shown, Trained
from avalanche_dgm.plots import furlanello2016

TITLE = "Furlanello et al. 2016, Active Long Term Memory Networks"


def _interference(trained: Trained) -> Shown:
    """Two equal tasks, one head each, in deep linear networks (Fig. 1)."""
    request = trained.request
    found = [deep_linear.run(deep_linear.Settings(seed=seed)) for seed in request.seeds]
    numbers = [result.numbers for result in found]
    curves = {}
    for name, panel in found[0].panels.items():
        rows = {
            f"task {'AB'[task]}": [result.panels[name].errors[:, task].tolist() for result in found]
            for task in range(2)
        }
        curves[f"error, {panel.title}"] = Curves(range(len(panel.errors)), rows)
    return Shown(
        {
            "A, then B": {"rise of A's error": [n["interference"]["a"] for n in numbers]},
            "A, then A and B": {"rise of A's error": [n["interference"]["b"] for n in numbers]},
            "in turns": {"epochs later than both at once": [n["delay"] for n in numbers]},
        },
        curves,
        {"": furlanello2016.interference(found[0])},
        [deep_linear.summary(found[0])],
    )


EXHIBITS = (
    Exhibit(
        "furlanello2016-fig1",
        "Figure 1: two equal tasks, one head each, in deep linear networks",
        "Learning the same task again with another head disturbs the old head; learning both at"
        " once does not. In turns it disturbs less each time, and takes over 100 epochs longer.",
        _interference,
        aliases=("altm-fig1",),
    ),
)

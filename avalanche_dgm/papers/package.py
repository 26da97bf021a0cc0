"""This package's defaults beside baselines, and an ablation of our additions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from avalanche_dgm.experiments.planning import Configs
from avalanche_dgm.experiments.sweep import buffer_of
from avalanche_dgm.papers.exhibits import Exhibit, Request, Shown, Trained

TITLE = "This package's defaults"

_ACCURACY, _FORGETTING = "accuracy", "forgetting"
#: The additions of DGR to Shin et al. 2017, and the settings that remove them.
ADDITIONS: Mapping[str, Mapping[str, Any]] = {
    "all": {},
    "one Gaussian a class for ten": {"components": 1},
    # Latents of the prior have no class, and no image to align with.
    "codes from the prior, rehearsal": {"sampling": "prior", "consolidation": "rehearsal"},
    "rehearsal, not alignment": {"consolidation": "rehearsal"},
    "hard labels": {"labels": "hard"},
    "divergence of weight 1": {"kl_weight": 1.0},
    "no fine-tuning": {"finetune_steps": 0},
}

#: Settings of a fast run. A fraction of the embedded digits would leave one per class.
_FAST = {"n_experiences": 2}
_FAST_EMBEDDED = {**_FAST, "stream_options": {"n_train_per_class": 20}}


def _buffers(request: Request, trained: Trained) -> Configs:
    """A buffer of real images with as many bytes as each memory that stores none."""
    buffers = {}
    for row, results in trained.results.items():
        configs = [buffer_of(result) for result in results]
        present = [config for config in configs if config is not None]
        if len(present) == len(results):
            buffers[f"replay as {row}"] = present
    return buffers


def _without(recipe: str, request: Request) -> Configs:
    rows = {}
    for row, options in ADDITIONS.items():
        (rows[row],) = request.plan(recipe, fast=_FAST_EMBEDDED, method_options=options).values()
    return rows


def _table(trained: Trained) -> Shown:
    columns = {_ACCURACY: lambda run: run.average(), _FORGETTING: lambda run: run.forgetting}
    return Shown(trained.table(columns))


#: Rows that are compared with the row of a buffer of as many bytes.
_VERSUS = [(method, f"replay as {method}", _ACCURACY) for method in ("dgr", "dgdmn")]
_RECIPE = "package-ablation"

EXHIBITS = (
    *(
        Exhibit.of_recipe(name, _table, fast=few, more=_buffers, differences=_VERSUS)
        for name, few in (
            ("package-embedded", _FAST_EMBEDDED),
            ("package-digits", _FAST),
            ("package-split-mnist", _FAST),
        )
    ),
    Exhibit.of_recipe(
        _RECIPE,
        _table,
        plan=partial(_without, _RECIPE),
        differences=[("all", row, _ACCURACY) for row in ADDITIONS if row != "all"],
    ),
)

"""Saez de Ocariz Borde 2022, "Latent Space based Memory Replay": Tables 3 to 12.

And an ablation of this package's additions to the paper's replay, at equal bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial

from avalanche_dgm.experiments.planning import Configs
from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.papers.exhibits import Exhibit, Request, Shown, Trained
from avalanche_dgm.streams.latent_split import CASES

TITLE = "Saez de Ocariz Borde 2022, Latent Space based Memory Replay for Continual Learning"

#: Data set -> the number of its first table, and its name.
_SETS = {"mnist": (4, "MNIST"), "fashion-mnist": (7, "Fashion-MNIST"), "kmnist": (10, "KMNIST")}
#: Fractions of the images whose latents are stored; the paper's percentages are of pixels.
_SHARES = {"1 %": 0.01, "5 %": 0.05, "25 %": 0.25}
_TRAINING, _TESTING, _ORIGINAL = "training", "testing", "original testing"
#: Suffix of rows where "an update on the memory" (Sec. 5) is a batch, not the whole memory.
_BATCH = ", a batch of it a step"

#: Bytes of the paper's 1 % of MNIST's latents, 63 per class of 36 numbers of 32 bits, with their
#: counts; and the additions to the paper's replay, each with this budget.
_BUDGET = 48_000
_ADDED: dict[str, dict[str, object]] = {
    "latents and classes, in turn (paper)": {"configuration": "paper-batch"},
    "the same in one step": {"covariance": False, "jitter": 0.0, "labels": "hard"},
    "and noise": {"covariance": False, "labels": "hard"},
    "and soft labels": {"covariance": False},
    "and covariances, fewer latents": {"covariance": True},
    "and a byte a value, more latents": {
        "covariance": True,
        "dtype": "uint8",
        "at_rest": "float16",
    },
}


def _plan(data: str, shares: Mapping[str, float], request: Request) -> Configs:
    """Latent replay in each case with each share; for 5 % with both readings of "an update"."""
    configs: Configs = {}
    for case, (name, share) in itertools.product(CASES, shares.items()):
        row = f"{case} - {name}" if len(shares) > 1 else f"{case}"
        readings = {row: "paper"}
        if len(shares) > 1 and name == "5 %":
            readings[row + _BATCH] = "paper-batch"
        if request.defaults:
            # The defaults have a configuration, too.
            readings = {row: "compact"}
        for label, configuration in readings.items():
            planned = request.plan(
                "saez2022",
                # Larger, so that few images suffice for a latent of each class.
                fast={"method_options": {"share": min(1.0, 10 * share)}},
                stream_options={"dataset": data, "case": case},
                method_options={"share": share, "configuration": configuration},
            )
            configs[label] = planned["latent-replay"]
    return configs


def _plan_without(data: str, request: Request) -> Configs:
    """The same network without replay and freezing."""
    return {
        f"{case}": request.plan(
            "saez2022", methods=["naive"], stream_options={"dataset": data, "case": case}
        )["naive"]
        for case in CASES
    }


def _cells(step: int, tasks: dict[str, int], trained: Trained) -> Shown:
    """Training accuracy in an experience, and test accuracies after it.

    Args:
        step: Index of the experience.
        tasks: Column -> index of the tested experience.
        trained: The runs.
    """

    def tested(place: int, result: RunResult) -> float | None:
        return result.steps[step].accuracy[place]

    cells = trained.table(
        {
            _TRAINING: lambda run: run.steps[step].train_accuracy,
            **{name: partial(tested, place) for name, place in tasks.items()},
            "epochs": lambda run: run.steps[step].epochs,
        }
    )
    return Shown(
        cells,
        notes=["Training accuracy is that of the last epoch while it was trained."],
    )


_first = partial(_cells, 0, {_TESTING: 0})
_both = partial(_cells, 1, {_TESTING: 1, _ORIGINAL: 0})


def _cases(trained: Trained) -> Shown:
    """The classes of the four cases (Table 3)."""
    cells = {
        str(case): {
            f"classes of the {name} training": [float(len(part)) for _ in trained.request.seeds]
            for name, part in zip(("1st", "2nd"), parts, strict=True)
        }
        for case, parts in CASES.items()
    }
    notes = [f"case {case}: {list(one)}, then {list(two)}" for case, (one, two) in CASES.items()]
    return Shown(cells, notes=notes)


def _plan_added(request: Request) -> Configs:
    budget = {"memory_budget": _BUDGET}
    return {
        row: request.plan(
            "latent-split",
            methods=["latent-replay"],
            stream_options={"dataset": "mnist", "case": 2},
            model_options={"latent_channels": 1},
            method_options={"configuration": "default", **budget, **options},
        )["latent-replay"]
        for row, options in _ADDED.items()
    }


def _tables(data: str) -> list[Exhibit]:
    number, name = _SETS[data]
    return [
        Exhibit(
            f"saez2022-table{number}",
            f"Table {number}: {name}, the first five classes",
            "About 99 % of the training images are right.",
            _first,
            partial(_plan, data, {"5 %": _SHARES["5 %"]}),
        ),
        Exhibit(
            f"saez2022-table{number + 1}",
            f"Table {number + 1}: {name}, after the other five classes with latent replay",
            "A small share of latents keeps the original classes; more latents keep more of them.",
            _both,
            partial(_plan, data, _SHARES),
            differences=[
                (f"{case} - 5 %{_BATCH}", f"{case} - 5 %", column)
                for case in CASES
                for column in (_TESTING, _ORIGINAL)
            ],
        ),
        Exhibit(
            f"saez2022-table{number + 2}",
            f"Table {number + 2}: {name}, the same without replay, nothing frozen",
            "The original classes are forgotten.",
            _both,
            partial(_plan_without, data),
        ),
    ]


EXHIBITS = (
    Exhibit(
        "saez2022-table3",
        "Table 3: the four cases",
        "Which five classes come first, and which then.",
        _cases,
    ),
    *(exhibit for data in _SETS for exhibit in _tables(data)),
    Exhibit(
        "saez2022-added",
        f"Not in the paper: what is added to its replay, each row with {_BUDGET // 1000} kB, MNIST,"
        " case 2",
        "The paper has the first row alone.",
        _both,
        _plan_added,
        differences=[
            (other, one, _ORIGINAL)
            for one, other in zip(list(_ADDED), list(_ADDED)[1:], strict=False)
        ],
        settings="Defaults of this package but for what the rows name",
    ),
)

"""Kamra et al. 2017, Figures 9 to 11: robustness, latents and samples of long-term memories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import cast

import torch
from torch import Tensor

from avalanche_dgm.dashboards.views import Examples
from avalanche_dgm.experiments.paper import PaperRun
from avalanche_dgm.experiments.planning import Configs
from avalanche_dgm.methods import Method
from avalanche_dgm.methods.abilities import Inspectable
from avalanche_dgm.modules import evaluating, in_chunks
from avalanche_dgm.papers.exhibits import Curves, Exhibit, Request, Shown, Trained
from avalanche_dgm.plots import kamra2017
from avalanche_dgm.plots.corruption import DEVIATIONS, OCCLUSIONS
from avalanche_dgm.plots.predictions import predict

JOINT, SEQUENTIAL, PLAIN = "LTM, all at once", "LTM, one by one", "plain network"
#: Corruptions in the table; the figure's lines have more.
_QUOTED = {"noise": (0.2, 0.5), "patch": (0.3, 0.5)}
# Images for t-SNE and nearest neighbours; the paper does not give their number.
_POINTS = 1000
_SAMPLES = 2000


def _plan(request: Request) -> Configs:
    alone = request.plan("kamra2017-fig9")
    return {JOINT: alone["dgr"], PLAIN: alone["naive"]}


def _plan_both(request: Request) -> Configs:
    # The same run as in Figure 4.
    one_by_one = request.plan("kamra2017-fig4")["dgdmn"]
    return {JOINT: request.plan("kamra2017-fig9")["dgr"], SEQUENTIAL: one_by_one}


def _plan_with_classifier(request: Request) -> Configs:
    return {**_plan_both(request), PLAIN: _plan(request)[PLAIN]}


def _resilience(trained: Trained) -> Shown:
    """Accuracy on noisy and on occluded images (Fig. 9)."""
    measured, pictures = [], None
    for seeds in zip(*trained.runs.values(), strict=True):
        images, labels = seeds[0].test_images()
        memories = {row: run.memory() for row, run in zip(trained.runs, seeds, strict=True)}
        measured.append(kamra2017.robustness(memories, images, labels))
        if pictures is None and JOINT in memories:
            pictures = memories[JOINT], _one_of_each(images, labels)
    by_kind: dict[str, Curves] = {}
    for kind, x, name in (
        ("noise", DEVIATIONS, "noisy"),
        ("patch", OCCLUSIONS, "occluded"),
    ):
        rows = {row: [getattr(m, name)[row] for m in measured] for row in trained.runs}
        by_kind[kind] = Curves(x, rows)
    cells: dict[str, dict[str, Sequence[float | None]]] = {row: {} for row in trained.runs}
    for kind, quoted in {"noise": (0.0, *_QUOTED["noise"]), "patch": _QUOTED["patch"]}.items():
        for value in quoted:
            at = list(by_kind[kind].x).index(value)
            for row, lines in by_kind[kind].rows.items():
                cells[row][_column(kind, value)] = [line[at] for line in lines]
    titles = {
        "noise": "accuracy by standard deviation of the noise",
        "patch": "accuracy by width of the patch",
    }
    curves = {titles[kind]: lines for kind, lines in by_kind.items()}
    return Shown(cells, curves, {"": kamra2017.resilience(measured[0], *(pictures or ()))})


def _column(kind: str, value: float) -> str:
    if not value:
        return "clean"
    names = {"noise": "noise of sd {:g}", "patch": "patch of {:g} of the width"}
    return names[kind].format(value)


def _latents(trained: Trained) -> Shown:
    """Latents of images in two dimensions (Fig. 10), and their separation of classes."""
    column = "nearest neighbour is of the class"
    cells = {
        row: {column: [_neighbours(run.memory(), *_points(run)) for run in runs]}
        for row, runs in trained.runs.items()
    }
    memories = {row: runs[0].memory() for row, runs in trained.runs.items()}
    images, labels = _points(next(iter(trained.runs.values()))[0])
    return Shown(cells, {}, {"": kamra2017.latents(memories, images, labels)})


def _points(run: PaperRun) -> tuple[Tensor, Tensor]:
    images, labels = run.test_images()
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:_POINTS]
    return images[chosen], labels[chosen]


@torch.no_grad()
def _neighbours(memory: Method, images: Tensor, labels: Tensor) -> float:
    """Fraction of images whose nearest neighbour in latent space has the same class."""
    # Not None, as the memories have a variational autoencoder.
    encode = cast(Callable[..., Tensor], _inspectable(memory).encode)
    with evaluating(memory):
        codes: Tensor = in_chunks(encode, images, torch.zeros_like(labels))
    distances = torch.cdist(codes, codes).fill_diagonal_(float("inf"))
    return float((labels[distances.argmin(dim=1)] == labels).double().mean())


def _samples(trained: Trained) -> Shown:
    """Samples of memories (Fig. 11), and the accuracy of a classifier of real images on them."""
    parts: dict[str, Callable[[Tensor], Tensor]] = {
        "samples taken for their class": lambda labels: labels >= 0,
        "of digits 0 to 5": lambda labels: labels < 6,
        "of digits 6 to 9": lambda labels: labels >= 6,
    }
    rows = [row for row in trained.runs if row != PLAIN]
    cells: dict[str, dict[str, list[float | None]]] = {
        row: {name: [] for name in parts} for row in rows
    }
    classifiers = trained.runs.get(PLAIN, ())
    for plain, row, run in chain.from_iterable(
        [(plain, row, trained.runs[row][i]) for row in rows] for i, plain in enumerate(classifiers)
    ):
        right, labels = _classified(run.memory(), plain.memory(), seed=run.result.config.seed)
        for name, among in parts.items():
            correct = right[among(labels)].double()
            cells[row][name].append(float(correct.mean()) if len(correct) else None)
    memories = {row: trained.runs[row][0].memory() for row in rows}
    return Shown(cells, {}, {"": kamra2017.samples(memories)})


@torch.no_grad()
def _classified(memory: Method, classifier: Method, *, seed: int) -> tuple[Tensor, Tensor]:
    """Whether a classifier predicts the label of each sample of a memory, and the labels."""
    with memory.random.temporary_seed(seed):
        drawn = _inspectable(memory).sample(_SAMPLES)
    zeros = torch.zeros_like(drawn.labels)
    predictions = predict(classifier, Examples(drawn.images, drawn.labels, zeros, zeros))
    return predictions == drawn.labels, drawn.labels


def _inspectable(memory: Method) -> Inspectable:
    if not isinstance(memory, Inspectable):
        raise TypeError(f"A {type(memory).__name__} cannot be inspected.")
    return memory


def _one_of_each(images: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([images[labels == label][0] for label in labels.unique()])


EXHIBITS = (
    Exhibit(
        "kamra2017-fig9",
        "Figure 9: accuracy on noisy and on partly covered digits",
        "The long-term memory, which classifies what it reconstructs, loses less by noise and by a"
        " patch than a plain network; both learned all of Digits at once.",
        _resilience,
        _plan,
        differences=[
            (JOINT, PLAIN, _column(kind, value)) for kind, v in _QUOTED.items() for value in v
        ],
        aliases=("fig9",),
    ),
    Exhibit(
        "kamra2017-fig10",
        "Figure 10: latents of the long-term memory by t-SNE, learned all at once and one by one",
        "The ten digits are apart in both, and their clusters have similar neighbours.",
        _latents,
        _plan_both,
        aliases=("fig10",),
    ),
    Exhibit(
        "kamra2017-fig11",
        "Figure 11: samples of the long-term memory, learned all at once and one by one",
        "Learned at once they are sharp. One by one, those of the digits learned last (6 to 9) are"
        " sharp, and those before blurred.",
        _samples,
        _plan_with_classifier,
        differences=[
            (SEQUENTIAL, JOINT, "of digits 0 to 5"),
            (SEQUENTIAL, JOINT, "of digits 6 to 9"),
        ],
        aliases=("fig11",),
    ),
)

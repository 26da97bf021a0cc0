"""The section of accuracy matrices."""

from __future__ import annotations

from avalanche_dgm.experiments.pages.accuracy import average_of
from avalanche_dgm.experiments.pages.aggregate import Group, Row
from avalanche_dgm.experiments.pages.heat import heat_map
from avalanche_dgm.experiments.pages.intervals import estimate
from avalanche_dgm.experiments.pages.layout import Section, card, cards, slider
from avalanche_dgm.experiments.pages.markup import tag


def matrices_section(group: Group) -> Section:
    """The accuracy matrix of each row.

    Args:
        group: The runs.
    """
    boxes = []
    for row in group.rows:
        mean = mean_matrix(row)
        if not mean:
            continue
        longest = max((run.result for run in row.runs), key=lambda result: len(result.steps))
        average = dict(average_of(row))
        chart = heat_map(
            f"Accuracy matrix, {row.label}, {group.title}",
            mean,
            learned=[step.experience for step in longest.steps],
            names=group.tasks,
            averages=[average[i].mean if i in average else None for i in range(1, len(mean) + 1)],
        )
        readout = tag("p", class_="readout", aria_live="polite")
        boxes.append(card(row.label, chart, readout, row=row))
    name = f"{group.name}-matrix"
    control = None
    if group.length > 1:
        control = slider(f"{name}-after", group.length, "After experience", controls=f"{name}-all")
    note = tag(
        "p",
        "Accuracy in percent, mean over seeds: a row after each experience, a column for each"
        " test. Pale: not learned yet.",
        class_="note",
    )
    content = tag("div", note, control, tag("div", cards(*boxes), id=f"{name}-all"))
    return Section("matrices", "Matrices", content)


def mean_matrix(row: Row) -> list[list[float | None]]:
    """The mean over seeds of the accuracy matrices of a row; ``None`` where nothing was measured.

    Args:
        row: The runs; of those that are not finished what there is.
    """
    matrices = [run.result.matrix for run in row.runs if run.result.steps]
    if not matrices:
        return []
    mean: list[list[float | None]] = []
    for i in range(max(len(matrix) for matrix in matrices)):
        there = [matrix[i] for matrix in matrices if i < len(matrix)]
        found = [estimate(list(column)) for column in zip(*there, strict=True)]
        mean.append([None if value is None else value.mean for value in found])
    return mean

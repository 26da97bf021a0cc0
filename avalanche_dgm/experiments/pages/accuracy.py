"""Sections about accuracy: over experiences, and by task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from avalanche_dgm.experiments.pages import formats, scores
from avalanche_dgm.experiments.pages.aggregate import Curve, Group, Row
from avalanche_dgm.experiments.pages.canvas import axis, counting_axis
from avalanche_dgm.experiments.pages.intervals import Estimate
from avalanche_dgm.experiments.pages.layout import Section, card, cards
from avalanche_dgm.experiments.pages.lines import Line, line_chart, numbers
from avalanche_dgm.experiments.pages.loading import Run
from avalanche_dgm.experiments.pages.markup import Markup, tag
from avalanche_dgm.experiments.pages.scalars import Values, experience_chart

#: Up to so many tasks or labels each is named in a legend; of more, a scale is shown.
MOST_NAMED = 12
_BAND = (
    "Shaded: 95 % t confidence interval of the mean over seeds; a line without a band is one seed."
)
_CURVES = (
    (scores.FORGETTING, "0 keeps all", (None, None)),
    (scores.BACKWARD, "below 0 forgets", (None, None)),
    (scores.RETENTION, "1 keeps all", (0.0, None)),
    (scores.STREAM, "accuracy", (0.0, 1.0)),
    (scores.LEARNING, "accuracy", (0.0, 1.0)),
    (scores.ANYTIME, "accuracy", (0.0, 1.0)),
    (scores.FORWARD, "accuracy", (0.0, 1.0)),
)


def curves_section(group: Group) -> Section:
    """Scores after every experience.

    Args:
        group: The runs.
    """
    several = any(len(row.runs) > 1 for row in group.rows)
    average = experience_chart(
        group,
        "Average accuracy on experiences seen",
        lambda run: scores.course(run.result, scores.AVERAGE),
        label="test accuracy",
        text=formats.share,
        note=_BAND if several else "One seed each: no band of confidence.",
        between=(0.0, 1.0),
        magnify=True,
        wide=True,
    )
    others = []
    for score, hint, between in _CURVES:
        others.append(
            experience_chart(
                group,
                score.label.capitalize(),
                partial(_course, score),
                label=hint if hint == "accuracy" else f"{score.label} ({hint})",
                text=formats.share,
                note=score.explained,
                between=between,
                magnify=score in (scores.LEARNING, scores.ANYTIME),
            )
        )
    return Section("accuracy", "Accuracy", cards(average, *others))


def _course(score: scores.Score, run: Run) -> list[tuple[float, float | None]]:
    return scores.course(run.result, score)


def tasks_section(group: Group) -> Section:
    """The accuracy on each task, a chart a row.

    Args:
        group: The runs.
    """
    boxes = []
    for row in group.rows:
        lines = [*_task_lines(row, group.tasks), Line("average of seen", "ink", average_of(row))]
        lines = [line for line in lines if line.curve]
        if not lines:
            continue
        x = counting_axis("experiences learned", group.length)
        y = axis("test accuracy", [], low=0, high=1)
        title = f"Accuracy on each task, {row.label}, {group.title}"
        chart = line_chart(title, lines, x, y, formats.share)
        # The matrices tell the numbers of many.
        few = len(group.tasks) <= MOST_NAMED
        table = numbers(lines, x.label, formats.share) if few else None
        boxes.append(card(row.label, chart, table, row=row))
    scale = legend_of_tasks(group.tasks, "t", "test on", average=True)
    return Section("tasks", "Tasks", tag("div", scale, cards(*boxes)))


def _task_lines(row: Row, tasks: Sequence[str]) -> list[Line]:
    def of_task(j: int, run: Run) -> list[tuple[float, float | None]]:
        steps = run.result.steps
        first = next((i for i, step in enumerate(steps) if step.experience == j), len(steps))
        return [(i + 1, steps[i].accuracy[j]) for i in range(first, len(steps))]

    return [Line(name, f"t{j}", _means(row, partial(of_task, j))) for j, name in enumerate(tasks)]


def average_of(row: Row) -> Curve:
    """The mean over seeds of the average accuracy on what was seen.

    Args:
        row: The runs.
    """
    return _means(row, lambda run: scores.course(run.result, scores.AVERAGE))


def _means(row: Row, values: Values) -> Curve:
    """Means alone: bands of many lines would cover one another."""
    return [(x, Estimate(value.mean, value.n)) for x, value in row.curve(values)]


def legend_of_tasks(
    names: Sequence[str], prefix: str, title: str, *, average: bool = False
) -> Markup:
    """Shows which colour is which task or label.

    Args:
        names: In order.
        prefix: Of the names of their colours.
        title: What they are.
        average: Whether there is a line of their average.
    """
    mean = [tag("li", tag("i", style="background:var(--ink)"), "average")] if average else []
    if len(names) <= MOST_NAMED:
        entries = [
            tag("li", tag("i", style=f"background:var(--{prefix}{j})"), name)
            for j, name in enumerate(names)
        ]
        return tag("ul", tag("li", title, class_="what"), *entries, *mean, class_="legend")
    stops = ",".join(f"var(--{prefix}{j})" for j in range(len(names)))
    scale = tag("i", class_="scale", style=f"background:linear-gradient(90deg,{stops})")
    parts = [tag("li", text) for text in (names[0], names[-1])]
    return tag(
        "ul",
        tag("li", title, class_="what"),
        parts[0],
        tag("li", scale),
        parts[1],
        *mean,
        class_="legend",
    )

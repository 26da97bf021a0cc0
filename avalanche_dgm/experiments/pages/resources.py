"""Blocks of the resources of methods (memory, masks, time) and of recorded scalars."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from avalanche_dgm.dashboards import keys
from avalanche_dgm.experiments.pages import charts
from avalanche_dgm.experiments.pages.blocks import Block, Card, Legend, lines
from avalanche_dgm.experiments.pages.encodings import Colour
from avalanche_dgm.experiments.pages.formats import plural
from avalanche_dgm.experiments.pages.groups import Group, Row
from avalanche_dgm.experiments.pages.loading import MASK_PARTS, Run
from avalanche_dgm.experiments.pages.quantities import ALL, QUANTITIES, Quantity

#: Number of colours of parts in the style sheet.
PART_COLOURS = 9
_MOST_LAYERS = 12
_REST = "other"


def masks_block(group: Group) -> Block:
    """Used fraction of each mask, and growth of the network."""
    parts = [Colour(name, f"mask-{name}") for name in ("reserved", "reused", "held", "free")]
    cards = lines(group, QUANTITIES["Masks"])
    left_out = 0
    for row in group.rows:
        layers = _layers(row)
        left_out += max(0, len(layers) - _MOST_LAYERS)
        for layer in layers[:_MOST_LAYERS]:
            values: dict[float, dict[str, float]] = {}
            for part in MASK_PARTS:
                key = keys.MASK.format(layer=layer, part=part)
                for at, value in row.curve(partial(_scalar, key)):
                    values.setdefault(at, {})[part] = value.mean
            for fractions in values.values():
                # Reserved by earlier experiences and not reused by this one.
                fractions["held"] = max(0.0, 1 - sum(fractions.values()))
            name = f"{row.label}, layer {layer}"
            chart = charts.stacked(
                f"Use of the mask, {name}", parts, values, y="fraction of the mask", text="share"
            )
            cards.append(Card(name, chart, row=row))
    note = f"{plural(left_out, 'more layer')} not shown." if left_out else None
    legend = Legend("entries", parts) if any(card.row for card in cards) else None
    return Block(cards, note=note, legend=legend)


def _layers(row: Row) -> list[str]:
    found: dict[str, None] = {}
    for run in row.runs:
        for key in run.scalars:
            begin, _, rest = key.partition("/")
            layer, _, part = rest.rpartition("/")
            if begin == "masks" and layer and part in MASK_PARTS:
                found[layer] = None
    return list(found)


def _scalar(key: str, run: Run) -> list[tuple[float, float | None]]:
    return list(run.scalars.get(key, {}).items())


def time_block(group: Group) -> Block:
    """Seconds of training and evaluation."""
    names = dict.fromkeys(_phase(p) for run in group.runs for s in run.steps for p in s.phases)
    # Colours repeat for very many parts; tooltips have their names.
    own = [name for name in names if name != _REST]
    parts = [Colour(name, f"p{i % PART_COLOURS}") for i, name in enumerate(own)]
    parts.append(Colour(_REST, "p-rest"))
    values = {row.label: _phases(row, own) for row in group.rows}
    bars = charts.horizontal(
        "Seconds of learning by phase", parts, values, x="seconds", text="seconds"
    )
    several = any(len(row.counted) > 1 for row in group.rows)
    note = "Mean over seeds, without tests." if several else "Without tests."
    cards = [
        *([Card("Total training time by phase", bars, note=note)] if bars.rows else []),
        *lines(group, QUANTITIES["Time"]),
    ]
    return Block(cards, legend=Legend("phase", parts) if own else None)


def _phase(name: str) -> str:
    """The phase without details: "sleep" for "sleep: tasks 3, 4"."""
    return name.partition(":")[0].strip()


def _phases(row: Row, names: Sequence[str]) -> dict[str, float]:
    def seconds(name: str, run: Run) -> float:
        phases = (item for step in run.steps for item in step.phases.items())
        return sum(spent for phase, spent in phases if _phase(phase) == name)

    found = {name: row.total(partial(seconds, name)) for name in names}
    values = {name: value.mean for name, value in found.items() if value is not None}
    whole = row.total(lambda run: run.result.seconds)
    # Phases may overlap; the rest is at least 0.
    rest = max(0.0, (whole.mean if whole else 0.0) - sum(values.values()))
    return {**values, _REST: rest}


def training_block(group: Group) -> Block:
    """Numbers of the classifier's training."""
    return Block(lines(group, [*QUANTITIES["Training"], *_others(group, "train/.+")]))


def more_block(group: Group) -> Block:
    """Numbers that no other section shows."""
    others = _others(group, r"(?!train/.|masks/.+/.).*")
    cards = lines(group, [*QUANTITIES["More numbers"], *others])
    return Block(cards, note="Recorded scalars by name.")


def _others(group: Group, pattern: str) -> list[Quantity]:
    """Numbers that are not in the table."""
    known = {quantity.key for quantity in ALL}
    found = dict.fromkeys(key for run in group.runs for key in run.scalars)
    others = [key for key in found if key not in known and re.fullmatch(pattern, key, re.DOTALL)]
    return [Quantity(key, key, key, zero=False) for key in others]

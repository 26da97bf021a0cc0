"""Channels, scales and selections of Vega-Lite that charts have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Names of formats of values, as D3 writes them, and what stands after the number.
FORMATS = {"share": (".3f", ""), "plain": (".4~g", ""), "seconds": (".3~g", " s")}


@dataclass(frozen=True)
class Colour:
    """A name in a chart, and how it is drawn.

    Attributes:
        label: What it stands for: a method, a task, a part.
        name: Variable of the style sheet.
        style: Number of its dashes and marker.
        strong: Whether its line is thick.
    """

    label: str
    name: str
    style: int = 0
    strong: bool = False

    @property
    def value(self) -> str:
        """The colour, as a style sheet and SVG understand it."""
        return f"var(--{self.name})"


#: Which names are switched off: axes follow what is left.
OFF = {"name": "off", "value": []}
SHOWN = {"filter": "indexof(off, datum.name) < 0"}


def zoom_of(*channels: str) -> dict[str, Any]:
    """Dragging moves, the wheel with Ctrl zooms, two clicks go back; a wheel alone scrolls."""
    wheel = "wheel![event.ctrlKey || event.metaKey]"
    select = {"type": "interval", "encodings": channels, "zoom": wheel}
    return {"name": "zoom", "select": select, "bind": "scales"}


def told_at_once() -> dict[str, Any]:
    """A line at the nearest point of the axis, which tells of all curves there."""
    near = {"type": "point", "fields": ["at"], "nearest": True, "on": "pointerover"}
    return {
        "transform": [{"pivot": "name", "value": "said", "groupby": ["at"], "op": "max"}],
        "params": [{"name": "near", "select": {**near, "clear": "pointerout"}}],
        "mark": {"type": "rule", "tooltip": {"content": "data"}},
        "encoding": {
            "color": {"value": "var(--soft)"},
            "opacity": {"condition": {"param": "near", "empty": False, "value": 0.6}, "value": 0},
        },
    }


def number(
    field: str, title: str, *, axis: Mapping[str, Any] | None = None, **scale: Any
) -> dict[str, Any]:
    """A channel of numbers; without words about the scale it begins at 0 and ends with the data."""
    scale = {"zero": True, "nice": False, **scale}
    channel = {"field": field, "type": "quantitative", "title": title, "scale": scale}
    return channel if axis is None else {**channel, "axis": axis}


def sides(field: str, first: str, last: str, reach: float) -> list[dict[str, str]]:
    """Where a bar or a cell begins and ends."""
    return [
        {"calculate": f"datum.{field} - {reach}", "as": first},
        {"calculate": f"datum.{field} + {reach}", "as": last},
    ]


def by_name(colours: Sequence[Colour], field: str = "name") -> dict[str, Any]:
    """The colour of each name in a field."""
    scale = {"domain": [c.label for c in colours], "range": [c.value for c in colours]}
    return {"field": field, "type": "nominal", "title": None, "scale": scale}


def by_style(colours: Sequence[Colour], styles: Sequence[Any]) -> dict[str, Any]:
    """The dashes, or the marker, of each name."""
    chosen = [styles[c.style % len(styles)] for c in colours]
    return {**by_name(colours), "scale": {"domain": [c.label for c in colours], "range": chosen}}


def order_of(parts: Sequence[Colour], field: str) -> dict[str, str]:
    """Parts of bars lie in their own order, not in that of the alphabet."""
    labels = json.dumps([part.label for part in parts])
    return {"calculate": f"indexof({labels}, datum.{field})", "as": "order"}


def short(value: float | None) -> float | None:
    """Six digits: more are not seen, and make the page larger."""
    return None if value is None else float(f"{value:.6g}")

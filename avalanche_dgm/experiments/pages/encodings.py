"""Channels, scales and selections of Vega-Lite shared by charts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Formats of values by name: D3 format and unit.
FORMATS = {"share": (".3f", ""), "plain": (".4~g", ""), "seconds": (".3~g", " s")}


@dataclass(frozen=True)
class Colour:
    """A name in a chart, and its style.

    Attributes:
        label: The name: a method, a task, a part.
        name: Name of the CSS variable.
        style: Index of its dashes and marker.
        strong: Whether its line is thick.
    """

    label: str
    name: str
    style: int = 0
    strong: bool = False

    @property
    def value(self) -> str:
        """The colour for CSS and SVG."""
        return f"var(--{self.name})"


#: Parameter with the hidden names: axes fit the visible ones.
OFF = {"name": "off", "value": []}
SHOWN = {"filter": "indexof(off, datum.name) < 0"}


def zoom_of(*channels: str) -> dict[str, Any]:
    """Drag to pan, Ctrl and wheel to zoom, double-click to reset; the wheel alone scrolls."""
    wheel = "wheel![event.ctrlKey || event.metaKey]"
    select = {"type": "interval", "encodings": channels, "zoom": wheel}
    return {"name": "zoom", "select": select, "bind": "scales"}


def shared_tooltip() -> dict[str, Any]:
    """A rule at the nearest x, with a tooltip of the values of all curves there."""
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
    """A quantitative channel; by default its scale is from 0 to the maximum of the data."""
    scale = {"zero": True, "nice": False, **scale}
    channel = {"field": field, "type": "quantitative", "title": title, "scale": scale}
    return channel if axis is None else {**channel, "axis": axis}


def sides(field: str, first: str, last: str, reach: float) -> list[dict[str, str]]:
    """Start and end of a bar or a cell."""
    return [
        {"calculate": f"datum.{field} - {reach}", "as": first},
        {"calculate": f"datum.{field} + {reach}", "as": last},
    ]


def by_name(colours: Sequence[Colour], field: str = "name") -> dict[str, Any]:
    """The colour of each name in a field."""
    scale = {"domain": [c.label for c in colours], "range": [c.value for c in colours]}
    return {"field": field, "type": "nominal", "title": None, "scale": scale}


def by_style(colours: Sequence[Colour], styles: Sequence[Any]) -> dict[str, Any]:
    """The dashes or marker of each name."""
    chosen = [styles[c.style % len(styles)] for c in colours]
    return {**by_name(colours), "scale": {"domain": [c.label for c in colours], "range": chosen}}


def order_of(parts: Sequence[Colour], field: str) -> dict[str, str]:
    """Stacks parts in the given order instead of alphabetically."""
    labels = json.dumps([part.label for part in parts])
    return {"calculate": f"indexof({labels}, datum.{field})", "as": "order"}


def short(value: float | None) -> float | None:
    """Rounds to six digits, for a smaller page."""
    return None if value is None else float(f"{value:.6g}")

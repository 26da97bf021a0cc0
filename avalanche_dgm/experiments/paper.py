"""The papers' figures: what was run for each, and what it shows. Their runs are recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import recipes
from avalanche_dgm.experiments.config import require_known

_PREFIX = "kamra2017-"


@dataclass(frozen=True)
class Figure:
    """One figure of Kamra et al. 2017, or several drawn from the same runs.

    Attributes:
        name: How it is called on the command line.
        recipe: Its recipe.
    """

    name: str
    recipe: str

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its recipe says."""
        return recipes.load(self.recipe)

    @property
    def title(self) -> str:
        """What is plotted."""
        return str(self.settings["description"])

    @property
    def shows(self) -> str:
        """What the paper reads from it; it gives no numbers."""
        return str(self.settings["shows"])

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, in the figure's order."""
        return tuple(self.settings["methods"])

    def configs(
        self,
        *,
        scale: float = 1.0,
        seeds: Sequence[int] = (0,),
        methods: Sequence[str] | None = None,
        **fields: Any,
    ) -> recipes.Configs:
        """Returns the configs of each method, one a seed.

        Args:
            scale: Fraction of the images, in training and test; above 0, at most 1. The memories
                shrink with it.
            seeds: The seeds.
            methods: Only these; all by default.
            **fields: Further fields of the configs, such as ``data_root`` and ``device``.

        Raises:
            ConfigError: The scale is out of range, or a method does not belong to the figure.
        """
        if not 0 < scale <= 1:
            raise ConfigError(f"--scale is {scale}; it must be above 0 and at most 1.")
        for method in methods or ():
            require_known(f"method in {self.name}", method, self.methods)
        words = {**fields, "methods": methods, "seed": seeds[0], "seeds": len(seeds)}
        if scale < 1:
            words["stream_options"] = {"fraction": scale}
        return recipes.plan(self.settings, words, methods=())


@dataclass(frozen=True)
class ComputedFigure:
    """A figure that needs no data and has no methods to choose from.

    Attributes:
        name: How it is called on the command line.
        title: What is plotted.
        shows: What the paper reads from it.
    """

    name: str
    title: str
    shows: str


ALTM_FIG1 = ComputedFigure(
    "altm-fig1",
    "Figure 1 of A-LTM: two equal tasks, one head each, in deep linear networks",
    "Learning the same task again with another head disturbs the old head; learning both at once"
    " does not. In turns it disturbs less each time, and takes over 100 epochs longer.",
)


FIGURES = tuple(
    Figure(name.removeprefix(_PREFIX), name)
    for name in recipes.names()
    if name.startswith(f"{_PREFIX}fig")
)


def figure(name: str) -> Figure:
    """Returns a figure by its name.

    Args:
        name: Such as "fig4"; "fig8a" is drawn from the runs of "fig7".

    Raises:
        ConfigError: There is no such figure here, or it is made without runs.
    """
    name = {"fig8a": "fig7", "fig5": "fig5b"}.get(name, name)
    known = {figure.name: figure for figure in FIGURES}
    require_known("figure", name, [*known, ALTM_FIG1.name])
    if name not in known:
        raise ConfigError(f"{name} has no stream and no methods; `deep_linear.draw` makes it.")
    return known[name]


def listing() -> str:
    """Returns all figures and what they show as text."""
    figures: list[Figure | ComputedFigure] = [*FIGURES, ALTM_FIG1]
    width = max(len(f.name) for f in figures)
    return "\n".join(
        f"{f.name:{width}}  {f.title}\n{'':{width}}  In the paper: {f.shows}" for f in figures
    )

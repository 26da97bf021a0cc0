"""What an exhibit of a paper is: a figure or a table, its runs, and what is read from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import recipes
from avalanche_dgm.experiments.config import require_known
from avalanche_dgm.experiments.paper import PaperRun, results_of
from avalanche_dgm.experiments.recipes import Configs
from avalanche_dgm.experiments.results import RunResult

#: The images of a fast run.
FAST_SCALE = 0.01
# What a recipe says of what is learned; the rest is how.
_LEARNED = ("stream", "stream_options", "n_experiences", "revisit", "methods")

#: By row and column: one value a seed, ``None`` where there is none.
Cells = Mapping[str, Mapping[str, Sequence[float | None]]]


@dataclass(frozen=True)
class Request:
    """In which settings an exhibit is made.

    Attributes:
        scale: Share of the images, in training and test, above 0 and at most 1; the memories of the
            DGDMN paper shrink with it. ``None`` for all of them, or few for a fast run.
        seeds: The seeds.
        only: Rows or methods; empty for all.
        fast: Show that everything works, not how well.
        defaults: Learn the same with this package's defaults in place of the paper's settings.
        fields: Further fields of the configs, such as ``data_root`` and ``device``.

    Raises:
        ConfigError: The scale is out of range.
    """

    scale: float | None = None
    seeds: tuple[int, ...] = (0,)
    only: tuple[str, ...] = ()
    fast: bool = False
    defaults: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"--scale is {self.scale}; it must be above 0 and at most 1.")

    @property
    def share(self) -> float:
        """Share of the images."""
        usual = FAST_SCALE if self.fast else 1.0
        return usual if self.scale is None else self.scale

    @property
    def suffix(self) -> str:
        """What tells folders of other settings from those of the paper's."""
        parts = ["-defaults"] if self.defaults else []
        parts += ["-lightning"] if self.fields.get("backend") == "lightning" else []
        parts += [f"-scale{self.share:g}"] if self.share < 1 and not self.fast else []
        return "".join([*parts, *(["-fast"] if self.fast else [])])

    def plan(self, recipe: str, *, fast: recipes.Layer | None = None, **words: Any) -> Configs:
        """Makes the configs of a recipe.

        Args:
            recipe: Its name.
            fast: Settings of a fast run alone.
            **words: Settings that outrank the recipe's.

        Returns:
            The configs of each of its methods, one a seed.
        """
        layer = recipes.load(recipe)
        if self.defaults:
            below = recipes.layers_of(layer)
            found = {name: recipes.top(below, name, None) for name in _LEARNED}
            layer = {name: value for name, value in found.items() if value is not None}
        asked: dict[str, Any] = {**self.fields, "seeds": len(self.seeds), "seed": self.seeds[0]}
        if self.share < 1:
            asked["stream_options"] = {"fraction": self.share}
        if self.fast:
            asked |= {"fast": True, **(fast or {})}
        return recipes.plan(layer, words, asked, methods=())


class Curves(NamedTuple):
    """Lines of a figure.

    Attributes:
        x: Where their values belong.
        rows: By row: one list of values a seed.
    """

    x: Sequence[float]
    rows: Mapping[str, Sequence[Sequence[float | None]]]


@dataclass(frozen=True)
class Shown:
    """What an exhibit shows.

    Attributes:
        cells: The table; of a figure what its text quotes, or its last points.
        curves: By quantity: the lines of a figure.
        figures: By what is put after the exhibit's name: what is drawn; empty for a table.
        notes: Lines for the terminal.
    """

    cells: Cells
    curves: Mapping[str, Curves] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Trained:
    """What an exhibit is made of.

    Attributes:
        request: What was asked for.
        runs: By row: the finished runs, one a seed.
        folder: The exhibit's folder, for what is computed without runs.
    """

    request: Request
    runs: Mapping[str, Sequence[PaperRun]]
    folder: Path

    @cached_property
    def results(self) -> dict[str, list[RunResult]]:
        """What the runs measured, as the functions of `avalanche_dgm.plots` take it."""
        return results_of(self.runs)

    def each(self, measure: Callable[[RunResult], float | None]) -> dict[str, list[float | None]]:
        """One value a run, by row."""
        return {row: [measure(run) for run in runs] for row, runs in self.results.items()}


@dataclass(frozen=True)
class Exhibit:
    """A figure or a table of a paper.

    Attributes:
        name: Such as "kamra2017-fig4": the paper, and what it is there.
        title: What it is.
        shows: What the paper reads from it; of a table of our own, what it is there for.
        show: Reads it from the finished runs.
        plan: Its runs: the configs of each row, one a seed; ``None`` if it is computed without.
        more: Runs that depend on finished ones, such as buffers of as many bytes; or ``None``.
        differences: Pairs of rows, and a column, whose difference is told with its interval.
        aliases: Further names.
    """

    name: str
    title: str
    shows: str
    show: Callable[[Trained], Shown]
    plan: Callable[[Request], Configs] | None = None
    more: Callable[[Request, Trained], Configs] | None = None
    differences: Sequence[tuple[str, str, str]] = ()
    aliases: tuple[str, ...] = ()

    @property
    def paper(self) -> str:
        """The paper's key, such as "kamra2017"."""
        return self.name.partition("-")[0]

    @property
    def ours(self) -> bool:
        """Whether it is of this package's defaults, and of no paper."""
        return self.paper == "package"

    @property
    def says(self) -> str:
        """What it shows, and who says so."""
        return self.shows if self.ours else f"In the paper: {self.shows}"

    @property
    def short(self) -> str:
        """Its name within the paper, such as "fig4"."""
        return self.name.partition("-")[2]

    def check(self, request: Request) -> None:
        """Refuses settings that mean nothing for an exhibit without runs.

        Raises:
            ConfigError: There are some.
        """
        foreign = [
            *(["--scale"] if request.scale is not None else []),
            *(["--methods"] if request.only else []),
            *(["--fast"] if request.fast else []),
            *(["--defaults"] if request.defaults else []),
            *(f"--{name.replace('_', '-')}" for name in request.fields),
        ]
        if self.plan is None and foreign:
            raise ConfigError(
                f"{', '.join(foreign)}: {self.name} has no use for it. It draws its own data and"
                " takes seconds: no data set, no methods, only seeds."
            )

    def configs(self, request: Request) -> Configs:
        """The configs of each row that was asked for, one a seed.

        Raises:
            ConfigError: A row or method does not belong to the exhibit.
        """
        configs = {} if self.plan is None else self.plan(request)
        methods = {row: seeds[0].method for row, seeds in configs.items()}
        for name in request.only:
            require_known(f"method in {self.name}", name, {*methods.values(), *methods})
        return {
            row: seeds
            for row, seeds in configs.items()
            if not request.only or {row, methods[row]} & {*request.only}
        }

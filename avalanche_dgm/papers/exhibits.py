"""Exhibits: figures or tables of a paper, with their runs and how results are read from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import planning, recipes
from avalanche_dgm.experiments.config import require_known
from avalanche_dgm.experiments.paper import PaperRun, results_of
from avalanche_dgm.experiments.planning import Configs
from avalanche_dgm.experiments.results import RunResult

#: Fraction of the images in a fast run.
FAST_SCALE = 0.01
# The fields of a recipe that define the problem; the others are settings of methods.
_PROBLEM = ("stream", "stream_options", "n_experiences", "revisit", "methods")

#: By row and column: one value per seed, or ``None``.
Cells = Mapping[str, Mapping[str, Sequence[float | None]]]


@dataclass(frozen=True)
class Request:
    """Settings of an exhibit.

    Attributes:
        scale: Fraction of the training and test images, above 0 and at most 1, by which the
            memories of the DGDMN paper are scaled, too. ``None`` for all, or few in a fast run.
        seeds: The seeds.
        only: Rows or methods; empty for all.
        fast: Whether it is a smoke test.
        defaults: Whether to use this package's defaults in place of the paper's settings.
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
        """Fraction of the images."""
        usual = FAST_SCALE if self.fast else 1.0
        return usual if self.scale is None else self.scale

    @property
    def suffix(self) -> str:
        """Suffix of the folder's name for settings that are not the paper's."""
        parts = ["-defaults"] if self.defaults else []
        parts += ["-lightning"] if self.fields.get("backend") == "lightning" else []
        parts += [f"-scale{self.share:g}"] if self.share < 1 and not self.fast else []
        return "".join([*parts, *(["-fast"] if self.fast else [])])

    def plan(self, recipe: str, *, fast: recipes.Layer | None = None, **words: Any) -> Configs:
        """Makes the configs of a recipe.

        Args:
            recipe: Its name.
            fast: Settings only for a fast run.
            **words: Settings that override the recipe's.

        Returns:
            The configs of each of its methods, one per seed.
        """
        layer = recipes.load(recipe)
        if self.defaults:
            below = planning.layers_of(layer)
            values = {name: planning.top(below, name, None) for name in _PROBLEM}
            layer = {name: value for name, value in values.items() if value is not None}
        given: dict[str, Any] = {**self.fields, "seeds": len(self.seeds), "seed": self.seeds[0]}
        if self.share < 1:
            given["stream_options"] = {"fraction": self.share}
        if self.fast:
            given |= {"fast": True, **(fast or {})}
        return planning.plan(layer, words, given, methods=())


class Curves(NamedTuple):
    """Lines of a figure.

    Attributes:
        x: The x values.
        rows: By row: one list of y values per seed.
    """

    x: Sequence[float]
    rows: Mapping[str, Sequence[Sequence[float | None]]]


@dataclass(frozen=True)
class Shown:
    """The results of an exhibit.

    Attributes:
        cells: The table; for a figure, values that are quoted in the text, or its last points.
        curves: By quantity: the lines of a figure.
        figures: By the suffix of the file's name: the drawn figures; empty for a table.
        notes: Lines for the terminal.
    """

    cells: Cells
    curves: Mapping[str, Curves] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Trained:
    """The finished runs of an exhibit.

    Attributes:
        request: The settings.
        runs: By row: the finished runs, one per seed.
        folder: The exhibit's folder.
    """

    request: Request
    runs: Mapping[str, Sequence[PaperRun]]
    folder: Path

    @cached_property
    def results(self) -> dict[str, list[RunResult]]:
        """The results of the runs, for the functions of `avalanche_dgm.plots`."""
        return results_of(self.runs)

    def each(self, measure: Callable[[RunResult], float | None]) -> dict[str, list[float | None]]:
        """One value per run, by row."""
        return {row: [measure(run) for run in runs] for row, runs in self.results.items()}

    def table(
        self, columns: Mapping[str, Callable[[RunResult], float | None]]
    ) -> dict[str, dict[str, list[float | None]]]:
        """One value per run, by row and column.

        Args:
            columns: What is measured in each column.
        """
        return {
            row: {name: [measure(run) for run in runs] for name, measure in columns.items()}
            for row, runs in self.results.items()
        }

    def averages(self) -> Curves:
        """The average accuracy on the tasks so far, after each of them."""
        rows = {row: [run.averages for run in runs] for row, runs in self.results.items()}
        n = len(next(iter(self.results.values()))[0].order)
        return Curves(range(1, n + 1), rows)


@dataclass(frozen=True)
class Exhibit:
    """A figure or a table of a paper.

    Attributes:
        name: The paper's key and the short name, such as "kamra2017-fig4".
        title: Title.
        shows: The paper's claim about it; for a table of this package, its purpose.
        show: Computes the results from the finished runs.
        plan: Makes the configs of each row, one per seed; ``None`` for an exhibit without runs.
        more: Makes the configs of runs that depend on finished ones, such as buffers with as many
            bytes; or ``None``.
        differences: Pairs of rows, and a column, whose paired difference is reported.
        aliases: Further names.
        settings: What the runs are trained with, unless it is this package's defaults.
    """

    name: str
    title: str
    shows: str
    show: Callable[[Trained], Shown]
    plan: Callable[[Request], Configs] | None = None
    more: Callable[[Request, Trained], Configs] | None = None
    differences: Sequence[tuple[str, str, str]] = ()
    aliases: tuple[str, ...] = ()
    settings: str = "Paper's settings"

    @classmethod
    def of_recipe(
        cls,
        name: str,
        show: Callable[[Trained], Shown],
        *,
        recipe: str | None = None,
        fast: recipes.Layer | None = None,
        **more: Any,
    ) -> Exhibit:
        """An exhibit with the runs of a recipe, and by default with its title and claim.

        Args:
            name: Name of the exhibit.
            show: Computes the results.
            recipe: Name of the recipe; by default that of the exhibit.
            fast: Settings only for a fast run.
            **more: Other fields.
        """
        source = recipe or name
        content = recipes.load(source)

        def plan(request: Request) -> Configs:
            return request.plan(source, fast=fast)

        usual = {"title": content["description"], "shows": content["shows"], "plan": plan}
        return cls(name=name, show=show, **{**usual, **more})

    @property
    def paper(self) -> str:
        """The paper's key, such as "kamra2017"."""
        return self.name.partition("-")[0]

    @property
    def ours(self) -> bool:
        """Whether it is about this package's defaults, not about a paper."""
        return self.paper == "package"

    @property
    def says(self) -> str:
        """``shows``, marked as the paper's claim if it is."""
        return self.shows if self.ours else f"In the paper: {self.shows}"

    @property
    def short(self) -> str:
        """Its name within the paper, such as "fig4"."""
        return self.name.partition("-")[2]

    def check(self, request: Request) -> None:
        """Checks that an exhibit without runs has no settings of runs.

        Raises:
            ConfigError: There are such settings.
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
                f"{', '.join(foreign)}: {self.name} does not use it. It generates its own data and"
                " takes seconds; it only has seeds."
            )

    def configs(self, request: Request) -> Configs:
        """The configs of each requested row, one per seed.

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

"""The papers' figures as data: what was run for each figure of Kamra et al. 2017, what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.computed import ALTM_FIG1
from avalanche_dgm.experiments.config import ExperimentConfig, require_known

_SIX = ("naive", "dropout", "ppr", "ewc", "dgr", "dgdmn")


@dataclass(frozen=True)
class Figure:
    """One figure of the paper, or several drawn from the same runs.

    Attributes:
        name: How it is called on the command line.
        title: What is plotted.
        shows: What the paper reads from it; it gives no numbers.
        stream: The stream that is learned.
        methods: The methods, in the figure's order.
        revisit: Experiences (counted from 0) learned again at the end.
    """

    name: str
    title: str
    shows: str
    stream: str
    methods: tuple[str, ...]
    revisit: tuple[int, ...] = ()

    def configs(
        self,
        *,
        scale: float = 1.0,
        seeds: Sequence[int] = (0,),
        methods: Sequence[str] | None = None,
        **fields: Any,
    ) -> dict[str, list[ExperimentConfig]]:
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
        return {
            method: [
                ExperimentConfig.create(
                    method,
                    self.stream,
                    paper=True,
                    seed=seed,
                    revisit=self.revisit,
                    stream_options={"fraction": scale} if scale < 1 else {},
                    **fields,
                )
                for seed in seeds
            ]
            for method in (methods or self.methods)
        }


FIGURES = (
    Figure(
        "fig3",
        "Figure 3: accuracy per task on Permnist, six methods",
        "NN, DropNN and PPR forget; EWC forgets less but learns ever more slowly; DGR and DGDMN"
        " keep all six tasks.",
        "permnist",
        _SIX,
    ),
    Figure(
        "fig4",
        "Figure 4: accuracy per task on Digits, six methods",
        "NN, DropNN, PPR and EWC know only the digit learned last; DGR and DGDMN keep the others.",
        "digits",
        _SIX,
    ),
    Figure(
        "fig5a",
        "Figure 5a: average accuracy over the tasks so far on Permnist, with joint training",
        "DGR and DGDMN stay near joint training; the others fall behind.",
        "permnist",
        (*_SIX, "joint"),
    ),
    Figure(
        "fig5b",
        "Figure 5b: average accuracy over the tasks so far on Digits, with joint training",
        "NN, DropNN, PPR and EWC follow 1/t; DGR and DGDMN are far above them.",
        "digits",
        (*_SIX, "joint"),
    ),
    Figure(
        "fig6",
        "Figure 6: Permnist with tasks 1 and 6 learned once more at the end",
        "DGDMN improves on the tasks that it revises; EWC does not.",
        "permnist",
        ("ewc", "dgdmn"),
        revisit=(0, 5),
    ),
    Figure(
        "fig7",
        "Figures 7 and 8a: forty tasks of TDigits, accuracy and training time",
        "After 40 tasks DGDMN knows about 40 % of all and about 80 % of the last ten, DGR under"
        " 20 % of all; DGDMN takes about a tenth of the time.",
        "tdigits",
        ("dgr", "dgdmn"),
    ),
    Figure(
        "fig8b",
        "Figure 8b: dual memory with and without short-term generative memories on Digits",
        "Keeping real images until sleep retains more.",
        "digits",
        ("dgdmn", "dgdmn-no-stm"),
    ),
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
        raise ConfigError(f"{name} has no stream and no methods; `computed.draw` makes it.")
    return known[name]


def listing() -> str:
    """Returns all figures and what they show as text."""
    figures = (*FIGURES, ALTM_FIG1)
    width = max(len(f.name) for f in figures)
    return "\n".join(
        f"{f.name:{width}}  {f.title}\n{'':{width}}  In the paper: {f.shows}" for f in figures
    )

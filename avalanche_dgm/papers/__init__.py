"""The figures and tables of the papers.

`avalanche-dgm paper NAME` trains missing runs, draws the figure and writes its numbers.
"""

from __future__ import annotations

from avalanche_dgm.experiments.config import require_known
from avalanche_dgm.papers import furlanello2016, kamra2017, ostapenko2019, package, saez2022
from avalanche_dgm.papers.exhibits import Exhibit, Request

__all__ = ["EXHIBITS", "PAPERS", "Exhibit", "Request", "find", "listing"]

PAPERS = {
    "kamra2017": kamra2017,
    "saez2022": saez2022,
    "ostapenko2019": ostapenko2019,
    "furlanello2016": furlanello2016,
    "package": package,
}
"""The modules with the exhibits of each paper, and of this package, by key."""

EXHIBITS: dict[str, Exhibit] = {
    exhibit.name: exhibit for paper in PAPERS.values() for exhibit in paper.EXHIBITS
}
"""All exhibits by name, in the papers' order."""


def find(*names: str) -> list[Exhibit]:
    """Returns exhibits by name.

    Args:
        *names: Names such as "kamra2017-fig4", or aliases such as "fig4" or "altm-fig1"; a paper's
            key for all of its exhibits, "all" for those of all papers.

    Raises:
        ConfigError: There is no such exhibit.
    """
    known = {alias: e for e in EXHIBITS.values() for alias in (e.name, *e.aliases)}
    exhibits: dict[str, Exhibit] = {}
    for name in names:
        if name == "all" or name in PAPERS:
            exhibits |= {e.name: e for e in EXHIBITS.values() if name in ("all", e.paper)}
        else:
            require_known("figure or table", name, [*known, *PAPERS, "all"])
            exhibits[known[name].name] = known[name]
    return list(exhibits.values())


def listing() -> str:
    """Returns a text that lists all exhibits and their claims."""
    width = max(map(len, EXHIBITS))
    parts = []
    for paper in PAPERS.values():
        lines = [f"{paper.TITLE}:"]
        for exhibit in paper.EXHIBITS:
            lines.append(f"  {exhibit.name:{width}}  {exhibit.title}")
            lines.append(f"  {'':{width}}  {exhibit.says}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)

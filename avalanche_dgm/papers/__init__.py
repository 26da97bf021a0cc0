"""The figures and tables of the papers: declared once, each made by one command.

`avalanche-dgm paper NAME` trains what is missing, draws it and writes its numbers.
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
"""The papers by key, and our own tables: each a module with its exhibits."""

EXHIBITS: dict[str, Exhibit] = {
    exhibit.name: exhibit for paper in PAPERS.values() for exhibit in paper.EXHIBITS
}
"""All exhibits by name, in the papers' order."""


def find(*names: str) -> list[Exhibit]:
    """Returns exhibits by their names.

    Args:
        *names: Such as "kamra2017-fig4", or a short name such as "fig4" or "altm-fig1"; "all" for
            all of them, a paper's key for all of it.

    Raises:
        ConfigError: There is no such exhibit.
    """
    known = {alias: e for e in EXHIBITS.values() for alias in (e.name, *e.aliases)}
    found: dict[str, Exhibit] = {}
    for name in names:
        if name == "all" or name in PAPERS:
            found |= {e.name: e for e in EXHIBITS.values() if name in ("all", e.paper)}
        else:
            require_known("figure or table", name, [*known, *PAPERS, "all"])
            found[known[name].name] = known[name]
    return list(found.values())


def listing() -> str:
    """Returns all exhibits and what they show as text."""
    width = max(map(len, EXHIBITS))
    parts = []
    for paper in PAPERS.values():
        lines = [f"{paper.TITLE}:"]
        for exhibit in paper.EXHIBITS:
            lines.append(f"  {exhibit.name:{width}}  {exhibit.title}")
            lines.append(f"  {'':{width}}  {exhibit.says}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)

"""Writes the notebooks of the tutorials from their pages, which are the only source of both.

Run it after such a page was changed::

    python tools/make_notebook.py

Each block of Python becomes a code cell, and what stands between them a cell of text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "examples" / "notebooks"
PAGES = [
    ROOT / "docs" / "tutorials" / "first_stream.md",
    ROOT / "docs" / "own_photographs.md",
    ROOT / "docs" / "tutorials" / "on_a_trainer.md",
    ROOT / "docs" / "write_your_own.md",
    ROOT / "docs" / "tutorials" / "reading_the_dashboard.md",
]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def made(page: Path) -> str:
    """The text of a page's notebook, format 4.5, without outputs."""
    text = page.read_text(encoding="utf-8")
    parts = re.split(r"^```python\n(.*?)^```\n", text, flags=re.DOTALL | re.MULTILINE)
    # From the folder of the notebook to that of the page.
    folder = Path("../..", page.parent.relative_to(ROOT)).as_posix()
    # Every second part is code.
    cells = [
        _cell(part.strip("\n"), number=i, code=bool(i % 2), folder=folder)
        for i, part in enumerate(parts)
        if part.strip()
    ]
    notebook = {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _cell(text: str, *, number: int, code: bool, folder: str) -> dict[str, Any]:
    if not code:
        text = re.sub(r"\]\((?![a-z]+:|#)", f"]({folder}/", text)
    kind: dict[str, Any] = {"cell_type": "code" if code else "markdown"}
    if code:
        kind["execution_count"] = None
    kind |= {"id": f"cell-{number:02d}", "metadata": {}}
    if code:
        kind["outputs"] = []
    return kind | {"source": text.splitlines(keepends=True)}


if __name__ == "__main__":
    for page in PAGES:
        (NOTEBOOKS / f"{page.stem}.ipynb").write_text(made(page), encoding="utf-8")

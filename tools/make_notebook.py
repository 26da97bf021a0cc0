"""Writes the notebook of the tutorial from its page, which is the only source of both.

Run it after ``docs/own_photographs.md`` was changed::

    python tools/make_notebook.py

Each block of Python becomes a code cell, and what stands between them a cell of text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "own_photographs.md"
NOTEBOOK = ROOT / "examples" / "notebooks" / "own_photographs.ipynb"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def made() -> str:
    """The text of the notebook, format 4.5, without outputs."""
    parts = re.split(
        r"^```python\n(.*?)^```\n", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    # Every second part is code.
    cells = [
        _cell(part.strip("\n"), number=i, code=bool(i % 2))
        for i, part in enumerate(parts)
        if part.strip()
    ]
    notebook = {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _cell(text: str, *, number: int, code: bool) -> dict[str, Any]:
    if not code:
        # From the folder of the page to that of the notebook.
        text = re.sub(r"\]\((?![a-z]+:|#)", "](../../docs/", text)
    kind: dict[str, Any] = {"cell_type": "code" if code else "markdown"}
    if code:
        kind["execution_count"] = None
    kind |= {"id": f"cell-{number:02d}", "metadata": {}}
    if code:
        kind["outputs"] = []
    return kind | {"source": text.splitlines(keepends=True)}


if __name__ == "__main__":
    NOTEBOOK.parent.mkdir(exist_ok=True)
    NOTEBOOK.write_text(made(), encoding="utf-8")

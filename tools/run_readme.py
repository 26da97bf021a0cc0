"""Runs the first script of the README, as a user who copies it would.

``python tools/run_readme.py`` runs it with the package that this Python has installed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def main() -> int:
    """Returns the script's exit status."""
    block = re.search(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.S | re.M)
    if block is None:
        print(f"{README} has no script.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.py"
        script.write_text(block[1], encoding="utf-8")
        # In another folder: the checkout's package must not stand in for the installed one.
        return subprocess.run([sys.executable, str(script)], cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

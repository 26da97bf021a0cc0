"""Print the oldest versions of its dependencies that setup.cfg allows, as constraints for pip.

``make oldest`` runs the tests with them. Test tools are not among them, with one exception: the
package ``lightning`` is pytorch-lightning under another name.
"""

import configparser
import re
from pathlib import Path

SETUP = Path(__file__).parent.parent / "setup.cfg"


def oldest() -> list[str]:
    """Each dependency, pinned at its lower bound."""
    config = configparser.ConfigParser()
    config.read(SETUP)
    required = config["options"]["install_requires"]
    found = re.findall(r"^([A-Za-z][\w.-]*)(?:\[.*\])?>=([\w.]+)", required, re.MULTILINE)
    pins = dict(found) | {"lightning": dict(found)["pytorch-lightning"]}
    return [f"{name}=={version}" for name, version in pins.items()]


if __name__ == "__main__":
    print("\n".join(oldest()))

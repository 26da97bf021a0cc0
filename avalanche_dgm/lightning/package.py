"""Chooses between Lightning's two packages: ``pytorch_lightning`` and ``lightning.pytorch``.

Both hold the same code, but a Trainer of one refuses a LightningModule of the other. So a process
uses only one, and every module of this folder imports ``pl`` from here. It is the first of: the
value of the environment variable `VARIABLE`; ``pytorch_lightning``, if already imported;
``lightning.pytorch``, if already imported; ``pytorch_lightning``.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from avalanche_dgm.errors import ConfigError

#: Environment variable for the package: ``pytorch_lightning`` or ``lightning``.
VARIABLE = "AVALANCHE_DGM_LIGHTNING"
#: The module of each package with Trainer, callbacks and loggers.
_MODULES = {"pytorch_lightning": "pytorch_lightning", "lightning": "lightning.pytorch"}


def _choose() -> str:
    named = os.environ.get(VARIABLE)
    if not named:
        imported = (package for package, module in _MODULES.items() if module in sys.modules)
        return next(imported, "pytorch_lightning")
    if named not in _MODULES:
        raise ConfigError(f"{VARIABLE}={named} is not known; use one of {', '.join(_MODULES)}.")
    if find_spec(named) is None:
        raise ConfigError(f"{VARIABLE}={named} is not installed: pip install {named}.")
    return named


#: The package that this process uses.
PACKAGE = _choose()

if TYPE_CHECKING:
    import pytorch_lightning as pl
else:
    pl = import_module(_MODULES[PACKAGE])


def check_package(*objects: Any) -> None:
    """Checks that no object is from the package that is not used.

    Args:
        *objects: A Trainer, callbacks, loggers or other objects, or lists of them; objects
            unrelated to Lightning pass.

    Raises:
        ConfigError: An object is from the other package.
    """
    used, other = PACKAGE, next(package for package in _MODULES if package != PACKAGE)
    for item in objects:
        if isinstance(item, (list, tuple)):
            check_package(*item)
            continue
        roots = {base.__module__.partition(".")[0] for base in type(item).__mro__}
        # A class derived from classes of both packages passes.
        if other in roots and used not in roots:
            raise ConfigError(
                f"{type(item).__name__} is a class of {_MODULES[other]}, but this process uses"
                f" {_MODULES[used]}, and the two do not work together. Import it from"
                f" {_MODULES[used]}. Or use {_MODULES[other]}: import it before"
                f" avalanche_dgm.lightning, or set the environment variable {VARIABLE}={other},"
                f" which also works if both are imported."
            )

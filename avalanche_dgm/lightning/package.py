"""Which of Lightning's two packages is used: ``pytorch_lightning`` or ``lightning.pytorch``.

Both hold the same code, but a Trainer of one refuses a LightningModule of the other. So one of them
serves the whole process, and every module here takes ``pl`` from this one. It is the first of:
what the environment variable `VARIABLE` names; ``pytorch_lightning``, if it is imported already;
``lightning.pytorch``, if it is; ``pytorch_lightning``.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from avalanche_dgm.errors import ConfigError

#: Names the package to use: ``pytorch_lightning`` or ``lightning``.
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
    """Refuses what belongs to the package that is not used.

    Args:
        *objects: A Trainer, callbacks, loggers and the like, or lists of them; objects that have
            nothing to do with Lightning are let through.

    Raises:
        ConfigError: One of them is of the other package.
    """
    used, other = PACKAGE, next(package for package in _MODULES if package != PACKAGE)
    for thing in objects:
        if isinstance(thing, (list, tuple)):
            check_package(*thing)
            continue
        roots = {base.__module__.partition(".")[0] for base in type(thing).__mro__}
        # A class that was derived from those of both fits.
        if other in roots and used not in roots:
            raise ConfigError(
                f"{type(thing).__name__} is a class of {_MODULES[other]}, but this process uses"
                f" {_MODULES[used]}, and the two do not work together. Import it from"
                f" {_MODULES[used]}. Or use {_MODULES[other]}: import it before"
                f" avalanche_dgm.lightning, or set the environment variable {VARIABLE}={other},"
                f" which also counts if both are imported."
            )

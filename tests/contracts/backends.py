"""The plugin and the LightningModule of every method of `method_cases`."""

from method_cases import DUAL, MAIN, METHODS, SMALL, VARIANTS, cut_behind
from torch import nn

from avalanche_dgm.errors import UnknownTaskError
from avalanche_dgm.lightning import module_of
from avalanche_dgm.methods.abilities import Inspectable
from avalanche_dgm.plugins import plugin_of

__all__ = ["BACKENDS", "DUAL", "MAIN", "SMALL", "VARIANTS", "look", "made"]

#: Plugin, module, hyper-parameters.
BACKENDS = {n: (plugin_of(kind), module_of(kind), hyper) for n, (kind, hyper) in METHODS.items()}


def made(name, which, model, **settings):
    """A plugin (0) or a module (1), with a layer to cut behind where it needs to be told."""
    kind, hyper = BACKENDS[name][which], METHODS[name][1]
    if not hasattr(model, "features"):
        norm = next((n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm1d)), None)
        hyper = cut_behind(name, norm)
    return kind(*([model] if which else []), **{**hyper, **settings})


def look(method):
    """What a method remembers, where it remembers samples."""
    if not isinstance(method, Inspectable):
        return None
    try:
        return method.sample(12).images
    except UnknownTaskError:
        return None

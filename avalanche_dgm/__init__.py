"""Generative and latent memories for continual learning without stored data.

All public names are importable from here, and loaded on first access. The stub beside this file
lists them.
"""

from avalanche_dgm.stubs import attach_stub

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach_stub(
    __name__,
    made={
        "Plugin": "avalanche_dgm.plugins.made",
        "Strategy": "avalanche_dgm.plugins.strategies",
    },
)
__all__.append("__version__")

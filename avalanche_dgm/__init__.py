"""Generative and latent memories for continual learning without stored data.

Everything users name is importable from here; each part is loaded when it is first asked for. The
names are in the stub beside this file.
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

"""LightningModules of the methods, and training over streams with a Trainer.

Only this folder imports PyTorch Lightning, through its module `package`. `__init__.pyi` lists the
exported names.
"""

from avalanche_dgm.lightning import package as package
from avalanche_dgm.stubs import attach_stub

__getattr__, __dir__, __all__ = attach_stub(
    __name__, made={"Module": "avalanche_dgm.lightning.modules"}
)

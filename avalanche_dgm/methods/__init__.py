"""One file per paper; a method is a ``torch.nn.Module`` that an adapter drives.

The names are in the stub beside this file.
"""

from avalanche_dgm.stubs import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__)

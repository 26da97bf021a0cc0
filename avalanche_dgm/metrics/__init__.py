"""How well a stream was learned, how good what a memory replays is, and what it costs.

Functions over an accuracy matrix, the torchmetrics on top, and what looks at generators, replay,
memory and time. All torchmetrics take the keyword arguments of ``torchmetrics.Metric``. What they
counted in several batches and processes is added up unless they say otherwise, and their updates
never wait for the device. The names are in the stub beside this file; those of results need no
PyTorch.
"""

from avalanche_dgm.stubs import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__)

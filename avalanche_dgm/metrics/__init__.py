"""Metrics of accuracy, generated and replayed samples, memory and time.

Functions of an accuracy matrix need no PyTorch. The torchmetrics take the keyword arguments of
``torchmetrics.Metric``; unless stated otherwise, their states are summed over batches and
processes, and their updates do not synchronise with the device. `__init__.pyi` lists the exported
names.
"""

from avalanche_dgm.stubs import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__)

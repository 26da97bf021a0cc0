"""Task sequences as Avalanche benchmarks: the papers' streams, and splits of any other set.

All images are float32 tensors in memory. Nothing is downloaded unless ``download=True`` is given.
"""

from avalanche_dgm.streams.classes import digits, sklearn_digits, split
from avalanche_dgm.streams.latent_split import latent_split
from avalanche_dgm.streams.registry import STREAMS, StreamSpec, make_stream
from avalanche_dgm.streams.transformed import permnist, tdigits
from avalanche_dgm.streams.turntables import turntable, turntable_domains

__all__ = [
    "STREAMS",
    "StreamSpec",
    "digits",
    "latent_split",
    "make_stream",
    "permnist",
    "sklearn_digits",
    "split",
    "tdigits",
    "turntable",
    "turntable_domains",
]

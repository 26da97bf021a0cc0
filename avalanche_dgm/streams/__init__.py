"""Avalanche benchmarks: the papers' streams, and splits of other data sets.

All images are float32 tensors in memory. Nothing is downloaded unless ``download=True`` is given.
"""

from avalanche_dgm.streams.classes import digits, photos, sklearn_digits, split
from avalanche_dgm.streams.features import FeatureStore, feature_stream
from avalanche_dgm.streams.front_ends import FrontEnd, front_end
from avalanche_dgm.streams.latent_split import latent_split
from avalanche_dgm.streams.registry import STREAMS, StreamSpec, make_stream
from avalanche_dgm.streams.transformed import permnist, tdigits
from avalanche_dgm.streams.turntables import turntable, turntable_domains
from avalanche_dgm.streams.validation import with_validation

__all__ = [
    "STREAMS",
    "FeatureStore",
    "FrontEnd",
    "StreamSpec",
    "digits",
    "feature_stream",
    "front_end",
    "latent_split",
    "make_stream",
    "permnist",
    "photos",
    "sklearn_digits",
    "split",
    "tdigits",
    "turntable",
    "turntable_domains",
    "with_validation",
]

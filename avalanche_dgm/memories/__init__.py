"""What is remembered, and how it is refreshed."""

from avalanche_dgm.memories.dual import DualMemory, DualMemorySettings
from avalanche_dgm.memories.generative import (
    Budget,
    DeepGenerativeMemory,
    MemorySettings,
    new_fraction,
    replay_budget,
)
from avalanche_dgm.memories.short_term import ShortTermTaskMemory
from avalanche_dgm.memories.splitting import SplitModel
from avalanche_dgm.memories.stored import StoredMemory
from avalanche_dgm.memories.stored_latents import StoredLatents
from avalanche_dgm.modules import Frozen

__all__ = [
    "Budget",
    "DeepGenerativeMemory",
    "DualMemory",
    "DualMemorySettings",
    "Frozen",
    "MemorySettings",
    "ShortTermTaskMemory",
    "SplitModel",
    "StoredLatents",
    "StoredMemory",
    "new_fraction",
    "replay_budget",
]

"""What is remembered, and how it is refreshed."""

from avalanche_dgm.memories.budget import Budget, new_fraction, replay_budget
from avalanche_dgm.memories.dual import DualMemory
from avalanche_dgm.memories.generative import DeepGenerativeMemory
from avalanche_dgm.memories.settings import DualMemorySettings, MemorySettings
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

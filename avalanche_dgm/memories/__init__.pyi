"""What the package offers; see `__init__.py`."""

from avalanche_dgm.memories.budget import Budget as Budget
from avalanche_dgm.memories.budget import new_fraction as new_fraction
from avalanche_dgm.memories.budget import replay_budget as replay_budget
from avalanche_dgm.memories.dual import DualMemory as DualMemory
from avalanche_dgm.memories.dual import DualMemorySettings as DualMemorySettings
from avalanche_dgm.memories.generative import DeepGenerativeMemory as DeepGenerativeMemory
from avalanche_dgm.memories.generative import MemorySettings as MemorySettings
from avalanche_dgm.memories.short_term import ShortTermTaskMemory as ShortTermTaskMemory
from avalanche_dgm.memories.splitting import SplitModel as SplitModel
from avalanche_dgm.memories.stored import StoredMemory as StoredMemory
from avalanche_dgm.memories.stored_latents import StoredLatents as StoredLatents
from avalanche_dgm.modules import Frozen as Frozen

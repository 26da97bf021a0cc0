"""One file per paper; a method is a ``torch.nn.Module`` that an adapter drives."""

from avalanche_dgm.methods.base import Method, Record
from avalanche_dgm.methods.dgdmn import DGDMN
from avalanche_dgm.methods.dgr import DGR
from avalanche_dgm.methods.pseudo_rehearsal import PseudoRehearsal

__all__ = ["DGDMN", "DGR", "Method", "PseudoRehearsal", "Record"]

"""The tensors of an object, by another way than the package's: what a pickle of it would hold."""

import io
import pickle
import types

from torch import Tensor
from torch.optim import Optimizer

from avalanche_dgm.randomness import RandomSource

# Kept out of the pickle: what cannot be in one, and what is there to train or to draw.
_OTHER = (Optimizer, RandomSource, types.FunctionType, types.MethodType, types.LambdaType)


class _Finder(pickle.Pickler):
    def __init__(self):
        super().__init__(io.BytesIO())
        self.found = {}

    def persistent_id(self, value):
        if isinstance(value, Tensor):
            self.found.setdefault(value.data_ptr(), value)
        return 0 if isinstance(value, (Tensor, *_OTHER)) else None


def tensors_in(value):
    """Tensors that a pickle of an object would hold, those at one address once."""
    finder = _Finder()
    finder.dump(value)
    return list(finder.found.values())

"""Every line that ends with ``# type: ignore`` is an error.

mypy says so where it is none; pyright's are counted by `tests/test_typing.py`."""

import torch
from torch import nn

from avalanche_dgm import DGDMNPlugin, DGRStrategy, MeRGANPlugin
from avalanche_dgm import DGDMNPlugn  # type: ignore
from avalanche_dgm.lightning import DGDMNModule
from avalanche_dgm.lightning import DGDMNModul  # type: ignore

from avalanche_dgm.methods import DGDMN, DGR, DGDMNSettings
from avalanche_dgm.methods import DGRR  # type: ignore
from avalanche_dgm.methods import DGRSetings  # type: ignore

net = nn.Linear(2, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
DGDMNPlugin(stm_sizee=3)  # type: ignore
DGDMNPlugin(stm_size="3")  # type: ignore
DGRStrategy(model=net, optimizer=optimizer, replay_sise=3)  # type: ignore
DGRStrategy(model=net, optimizer=optimizer, replay_size="3")  # type: ignore
DGRStrategy(model=net, optimizer=optimizer, train_epoch=3)  # type: ignore
DGDMNModule(net, stm_sizee=3)  # type: ignore
DGDMNModule(net, stm_size="3")  # type: ignore
MeRGANPlugin(classifier="critics")  # type: ignore
DGR(replay_sise=3)  # type: ignore
DGR(replay_size="3")  # type: ignore
DGR(DGDMNSettings(stm_size=3))  # type: ignore
DGDMN(routing="oracles")  # type: ignore

"""Every line that ends with ``# error`` is one."""

import torch
from torch import nn

from avalanche_dgm import DGDMNPlugin, DGRStrategy, MeRGANPlugin
from avalanche_dgm import DGDMNPlugn  # error
from avalanche_dgm.lightning import DGDMNModule
from avalanche_dgm.lightning import DGDMNModul  # error

from avalanche_dgm.methods import DGDMN, DGR, DGDMNSettings
from avalanche_dgm.methods import DGRR  # error
from avalanche_dgm.methods import DGRSetings  # error

net = nn.Linear(2, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
DGDMNPlugin(stm_sizee=3)  # error
DGDMNPlugin(stm_size="3")  # error
DGRStrategy(model=net, optimizer=optimizer, replay_sise=3)  # error
DGRStrategy(model=net, optimizer=optimizer, replay_size="3")  # error
DGRStrategy(model=net, optimizer=optimizer, train_epoch=3)  # error
DGDMNModule(net, stm_sizee=3)  # error
DGDMNModule(net, stm_size="3")  # error
MeRGANPlugin(classifier="critics")  # error
DGR(replay_sise=3)  # error
DGR(replay_size="3")  # error
DGR(DGDMNSettings(stm_size=3))  # error
DGDMN(routing="oracles")  # error

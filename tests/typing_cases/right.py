"""Nothing here is an error."""

import torch
from torch import nn

from avalanche_dgm import DGDMNPlugin, DGRStrategy, OptimizerSpec, errors
from avalanche_dgm.lightning import DGDMNModule, MethodModule
from avalanche_dgm.methods import DGDMN, DGR, DGRSettings, Method

net = nn.Linear(2, 2)
plugin = DGDMNPlugin(stm_size=3, hidden=(64, 64), progress=True)
memory: DGDMN = plugin.method
paper: DGDMNPlugin = DGDMNPlugin.paper("digits", scale=0.5, stm_size=3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
strategy = DGRStrategy(model=net, optimizer=optimizer, replay_size=64, train_epochs=2)
module: MethodModule = DGDMNModule(net, stm_size=3, optimizer=OptimizerSpec("sgd", 0.1))
method: Method = DGDMN(stm_size=3, seed=1)
other: Method = DGR(DGRSettings(replay_size=3), seed=1)
problem: type[Exception] = errors.ConfigError

"""What tests of learning rates train: a small network on few digits, and who notes the rates."""

import torch
from avalanche.core import SupervisedPlugin
from torch import nn

from avalanche_dgm import sklearn_digits


class Noting(SupervisedPlugin):
    def __init__(self):
        super().__init__()
        self.rates = []

    def before_update(self, strategy, **kwargs):
        self.rates.append(strategy.optimizer.param_groups[0]["lr"])


def network():
    torch.manual_seed(0)
    front = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU())
    return nn.Sequential(front, nn.Linear(30, 10))


def stream():
    return sklearn_digits(n_experiences=2, n_train_per_class=20, seed=0)

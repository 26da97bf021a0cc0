"""Classifiers of Avalanche's that change as they learn, for tests on any backend."""

from avalanche.models import IncrementalClassifier, MultiHeadClassifier
from avalanche.models.dynamic_modules import MultiTaskModule
from torch import nn


class Growing(nn.Module):
    """A classifier that grows with the classes."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU())
        self.classifier = IncrementalClassifier(40, 2)

    def forward(self, x):
        return self.classifier(self.features(x))


class MultiHead(MultiTaskModule):
    """A classifier with a head for each task label."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU())
        self.classifier = MultiHeadClassifier(40, 2)

    def forward(self, x, task_labels):
        return self.classifier(self.features(x), task_labels)

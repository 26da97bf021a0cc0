"""Metrics draw what they compute."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torchmetrics import Metric

import avalanche_dgm.metrics as metrics

mpl.use("agg")

CLASSES = [
    getattr(metrics, name)
    for name in metrics.__all__
    if isinstance(getattr(metrics, name), type) and issubclass(getattr(metrics, name), Metric)
]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def drawn(axes):
    """The heights of all points of a plot."""
    heights = [float(y) for line in axes.lines for y in np.asarray(line.get_ydata())]
    return heights + [float(y) for dots in axes.collections for _, y in dots.get_offsets()]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_metric_has_a_plot(kind):
    assert kind.plot is not Metric.plot


def learned(metric):
    """A matrix of two experiences, of which half of the first is forgotten."""
    labels = torch.tensor([0, 0, 1, 1])
    metric.update(labels, labels, step=0, experience=0)
    metric.update(torch.tensor([0, 1, 1, 0]), labels, step=1, experience=0)
    metric.update(labels, labels, step=1, experience=1)
    return metric


def test_the_matrix():
    figure, axes = learned(metrics.AccuracyMatrix(2)).plot()
    assert figure is axes.figure
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(shown, [[1, np.nan], [0.5, 1]])
    assert metrics.AccuracyMatrix(1).plot()[1].images[0].get_array().shape == (1, 1)
    nothing, same = learned(metrics.AccuracyMatrix(2)).plot(torch.eye(2), plt.subplots()[1])
    assert nothing is None
    np.testing.assert_array_equal(same.images[0].get_array(), np.eye(2))


@pytest.mark.parametrize(
    ("kind", "value"), [(metrics.AverageAccuracy, 0.75), (metrics.Forgetting, 0.5)]
)
def test_summaries(kind, value):
    metric = learned(kind(2))
    assert value in drawn(metric.plot()[1])
    curve = metric.plot([torch.tensor(0.25), torch.tensor(0.5), torch.tensor(0.75)])[1]
    assert {0.25, 0.5, 0.75} <= {*drawn(curve)}


def test_several_values():
    metric = metrics.ReconstructionError()
    metric.update(torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 0.5))
    assert {0.25, 0.5} <= {*drawn(metric.plot()[1])}

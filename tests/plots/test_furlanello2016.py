"""The figures of Furlanello et al. 2016: the four panels, and memory over epochs."""

import numpy as np
import pytest

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import deep_linear
from avalanche_dgm.metrics.stream_accuracies import EpochAccuracy
from avalanche_dgm.plots import furlanello2016


def test_four_panels():
    settings = deep_linear.Settings(depth=2, features=8, hidden=4, epochs=6, period=3, periods=4)
    result = deep_linear.run(settings)
    figure = furlanello2016.interference(result)
    assert [axes.get_title()[:3] for axes in figure.axes] == ["(a)", "(b)", "(c)", "(d)"]
    for axes, name, start in zip(figure.axes, "abcc", (0, 0, 0, 6), strict=True):
        shown = {line.get_label(): line.get_ydata() for line in axes.lines}
        for task, letter in enumerate("AB"):
            expected = result.panels[name].errors[start:, task].numpy()
            np.testing.assert_array_equal(shown[f"task {letter}"], expected)


def test_memory_over_epochs():
    tables = {
        "naive": [EpochAccuracy(0, 0.9, 0.1), EpochAccuracy(1, 0.4, 0.6), EpochAccuracy(2, 0.5, 1)],
        "replay": [EpochAccuracy(0, 0.8, 0.1), EpochAccuracy(3, 0.8, 0.7)],
    }
    left, right = furlanello2016.memory_by_epoch(tables).axes
    for axes, column in ((left, 1), (right, 2)):
        shown = {
            line.get_label(): line.get_xydata().tolist()
            for line in axes.lines
            if line.get_label() in tables
        }
        assert shown == {
            name: [[row.epoch, row[column]] for row in table] for name, table in tables.items()
        }
    before = [line.get_ydata()[0] for line in left.lines if line.get_label() not in tables]
    assert before == [0.9, 0.8]
    colours = [[line.get_color() for line in axes.lines] for axes in (left, right)]
    assert colours[0][::2] == colours[1] == colours[0][1::2]


def test_nothing_to_draw():
    with pytest.raises(ConfigError, match="of naive.*eval_every"):
        furlanello2016.memory_by_epoch({"naive": [EpochAccuracy(0, 0.9, 0.1)]})
    later = [EpochAccuracy(1, 0.4, 0.6), EpochAccuracy(2, 0.5, 1)]
    with pytest.raises(ConfigError, match="before the new task"):
        furlanello2016.memory_by_epoch({"naive": later})
    with pytest.raises(ConfigError, match="nothing to draw:"):
        furlanello2016.memory_by_epoch({})

"""Two tasks in one experience, accuracies by epoch, and a network that goes on."""

import pytest

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import ExperimentConfig
from avalanche_dgm.experiments.runner import run

TINY = {"categories": True, "n_train": 1, "n_test": 1, "size": 8, "fraction": 0.2}


def make(method, **settings):
    options = {**TINY, **settings.pop("stream_options", {})}
    return ExperimentConfig.create(
        method, "turntable-domains", fast=True, stream_options=options, **settings
    )


@pytest.mark.parametrize("backend", ["avalanche", "lightning"])
@pytest.mark.parametrize("method", ["joint", "altm-stored"])
def test_the_third_test_is_there(method, backend):
    few = {"method_options": {"per_class": 1}} if method == "altm-stored" else {}
    result = run(make(method, backend=backend, device="cpu", **few))
    assert result.tasks == ["viewpoints", "sklearn-digits", "categories"]
    assert result.order == [0, 1]
    assert all(value is not None for row in result.matrix for value in row)
    # What is averaged is as without it.
    assert result.average() == pytest.approx(sum(result.matrix[1][:2]) / 2)


def test_the_second_domain_alone():
    result = run(make("naive", stream_options={"alone": True}))
    assert result.tasks == ["sklearn-digits"]
    assert len(result.steps) == 1


def test_a_cumulative_network_begins_where_it_was():
    """Its first experience is that of naive; joint training's second one begins anew."""
    going, plain, joint = (run(make(name, epochs=1)) for name in ("cumulative", "naive", "joint"))
    assert going.matrix[0] == plain.matrix[0]
    assert going.matrix[1] != joint.matrix[1]
    assert going.steps[1].memory_bytes == joint.steps[1].memory_bytes > 0


def test_accuracies_before_and_after_each_epoch():
    few = {"per_class": 1}
    tested, plain = (
        run(make("altm-stored", every_epoch=flag, method_options=few)) for flag in (True, False)
    )
    # Looking changes nothing that is learned.
    assert tested.matrix == plain.matrix
    assert [len(step.by_epoch) for step in tested.steps] == [2, 2]
    first, second = tested.steps
    assert first.by_epoch[-1] == first.accuracy == second.by_epoch[0]
    assert second.by_epoch[-1] == second.accuracy
    assert not plain.steps[0].by_epoch
    with pytest.raises(ConfigError, match="every_epoch"):
        make("naive", every_epoch=True, backend="lightning")

"""Former public names are the present objects, with a warning."""

import importlib

import pytest

FORMER = {
    "avalanche_dgm.methods": {"Record": "MethodStats"},
    "avalanche_dgm.losses": {"critic_loss": "discriminator_loss"},
    "avalanche_dgm.dashboards.sinks": {"Guarded": "FailSafeSink"},
}


@pytest.mark.parametrize(
    ("package", "former", "present"),
    [(package, *names) for package, found in FORMER.items() for names in found.items()],
)
def test_former_names_warn(package, former, present):
    module = importlib.import_module(package)
    with pytest.warns(FutureWarning, match=f"{former} is deprecated; use {package}.{present}"):
        found = getattr(module, former)
    assert found is getattr(module, present)
    assert former not in getattr(module, "__all__", ())


@pytest.mark.parametrize("package", FORMER)
def test_unknown_names_are_still_errors(package):
    with pytest.raises(AttributeError, match="Recrod"):
        _ = importlib.import_module(package).Recrod


def test_former_names_can_be_imported():
    with pytest.warns(FutureWarning):
        from avalanche_dgm.methods import Record
    assert Record.__name__ == "MethodStats"

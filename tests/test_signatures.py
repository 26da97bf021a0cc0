"""Signatures of what takes hyper-parameters: everything is named, and nothing else is touched."""

import inspect
import pydoc
from dataclasses import fields

import pytest
from driver import network

from avalanche_dgm import DynamicMemoryPlugin, EWCGeneratorPlugin, GANReplayPlugin, MeRGANPlugin
from avalanche_dgm.lightning import (
    DynamicMemoryModule,
    EWCGeneratorModule,
    GANReplayModule,
    MeRGANModule,
)
from avalanche_dgm.methods import DynamicMemory, EWCGenerator, GANReplay, MeRGAN
from avalanche_dgm.signatures import takes_arguments_of

OF_METHODS = ["classifier", "replay_size", "seed"]
KINDS = [
    (DynamicMemory, DynamicMemoryPlugin, DynamicMemoryModule),
    (MeRGAN, MeRGANPlugin, MeRGANModule),
    (EWCGenerator, EWCGeneratorPlugin, EWCGeneratorModule),
    (GANReplay, GANReplayPlugin, GANReplayModule),
]


@pytest.mark.parametrize(("method", "plugin", "module"), KINDS)
def test_every_hyper_parameter_is_named(method, plugin, module):
    settings = [field.name for field in fields(method.settings_kind)]
    named = {
        method: [*OF_METHODS, *settings],
        plugin: [*OF_METHODS, "oracle", "progress", *settings],
        module: ["model", "optimizer", "criterion", *OF_METHODS, *settings],
    }
    for kind, expected in named.items():
        assert [*inspect.signature(kind).parameters] == expected
        # Pydoc sets letters in bold by printing them twice.
        header, _ = pydoc.plain(pydoc.render_doc(kind)).split(kind.__doc__.splitlines()[0])
        assert all(f"{name}: " in header for name in expected)


@pytest.mark.parametrize(("method", "plugin", "module"), KINDS)
def test_those_who_share_an_init_do_not_share_its_signature(method, plugin, module):
    assert [*inspect.signature(method.__mro__[1]).parameters] == [*OF_METHODS, "hyper"]
    assert "hyper" in inspect.signature(plugin.__mro__[1]).parameters
    assert "hyper" in inspect.signature(module.__mro__[1]).parameters


def make():
    class Base:
        def __init__(self, *, first: int = 1, **hyper: int) -> None:
            self.values = {"first": first, **hyper}

        def __call__(self, x: int) -> int:
            return x

    def source(second: int = 2, third: int = 3) -> None:
        pass

    @takes_arguments_of(source)
    class Kind(Base):
        pass

    return Base, Kind


def test_a_class_that_inherits_its_init():
    base, kind = make()
    assert [*inspect.signature(kind).parameters] == ["first", "second", "third"]
    assert [*inspect.signature(base).parameters] == ["first", "hyper"]
    assert kind(third=4).values == {"first": 1, "third": 4}


def test_subclasses_that_say_what_they_take():
    _, kind = make()

    class Same(kind):
        pass

    class Other(kind):
        def __init__(self, size: int) -> None:
            super().__init__(second=size)

    assert inspect.signature(Same) == inspect.signature(kind)
    assert [*inspect.signature(Other).parameters] == ["size"]


def test_an_object_is_called_with_something_else():
    _, kind = make()
    assert [*inspect.signature(kind()).parameters] == ["x"]
    forward = inspect.signature(DynamicMemoryModule(network()).forward).parameters
    assert [*forward] == ["images", "tasks"]

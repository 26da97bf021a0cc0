"""Settings: names and values that are deprecated."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from avalanche_dgm import DynamicMemoryPlugin
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.settings import Settings, make_settings


@dataclass(frozen=True, kw_only=True)
class Old(Settings):
    deprecated: ClassVar[Mapping[str, str]] = {"breadth": "width"}
    deprecated_values: ClassVar[Mapping[str, Mapping[Any, Any]]] = {"kind": {"wide": "broad"}}

    width: int = 1
    kind: str = "narrow"


@dataclass(frozen=True, kw_only=True)
class Older(Old):
    more: list[int] | None = None


def test_a_former_name_is_taken_with_a_warning():
    with pytest.warns(FutureWarning, match="breadth=3 is deprecated; use width=3"):
        assert make_settings(Older, {"breadth": 3, "more": [1]}) == Older(width=3, more=[1])


def test_a_former_value_is_taken_with_a_warning():
    with pytest.warns(FutureWarning, match="use kind='broad'"):
        assert make_settings(Old, {"kind": "wide"}).kind == "broad"


@pytest.mark.filterwarnings("error")
def test_present_names_and_values_raise_no_warning():
    assert make_settings(Old, {"width": 2, "kind": "broad"}) == Old(width=2, kind="broad")


@pytest.mark.parametrize("given", [{"breadth": 1, "width": 1}, {"width": 1, "breadth": 1}])
def test_a_setting_is_given_under_one_name(given):
    with pytest.raises(ConfigError, match="breadth is the former name of width"):
        make_settings(Old, given)


def test_messages_list_present_names_alone():
    with pytest.raises(ConfigError, match="Available: kind, width"):
        make_settings(Old, {"wdth": 1})


def test_plugins_take_former_names():
    with pytest.warns(FutureWarning) as seen:
        plugin = DynamicMemoryPlugin(classifier="critic", critic_width=8, closing_epochs=3)
    assert len(seen) == 3
    assert plugin.method.settings.classifier == "discriminator"
    assert plugin.method.settings.discriminator_width == 8
    assert plugin.method.settings.discriminator_finetune_epochs == 3


def test_plain_values_are_written_without_copies():
    class Handle:
        def __deepcopy__(self, memo):
            raise TypeError("a handle cannot be copied")

    class Wheel(Handle):
        settings = Old(width=2)

    @dataclass(frozen=True, kw_only=True)
    class Holding(Settings):
        parts: Any = None
        optimizer: OptimizerSpec = OptimizerSpec("sgd", 0.1)

    written = Holding(parts=(Handle(), Wheel(), {1: 0.5})).to_dict()
    assert written["parts"] == ["<Handle>", {"Wheel": {"width": 2, "kind": "narrow"}}, {"1": 0.5}]
    assert written["optimizer"]["lr"] == 0.1
    assert json.loads(json.dumps(written)) == written


@dataclass(frozen=True, kw_only=True)
class Annotated(Settings):
    kind: Literal["a", "b"] = "a"
    either: Literal["a"] | list[int] = "a"
    steps: int = 3
    epochs: int | None = field(default=None, metadata={"least": 0})
    layers: tuple[int, ...] = (4,)
    bounds: tuple[float, float] | None = None
    sgd_optimizer: OptimizerSpec | None = None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "c"),
        ("kind", None),
        ("steps", 0),
        ("steps", None),
        ("steps", 1.0),
        ("epochs", -1),
        ("layers", None),
        ("layers", (4, 0)),
        ("bounds", (1.0, 0.0)),
        ("sgd_optimizer", "sgd"),
        ("sgd_optimizer", {"rate": 1}),
    ],
)
def test_what_an_annotation_says_is_checked(name, value):
    with pytest.raises(ConfigError, match=name):
        Annotated(**{name: value})


def test_what_an_annotation_allows_is_taken():
    given = {"either": [1], "epochs": 0, "bounds": (0, 1), "sgd_optimizer": {"name": "sgd"}}
    settings = Annotated(**given)
    assert settings.sgd_optimizer == OptimizerSpec("sgd")
    assert (settings.either, settings.epochs, settings.bounds) == ([1], 0, (0, 1))

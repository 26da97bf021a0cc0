"""The classes that are made of a method: their names, arguments, documentation and copies."""

import copy
import inspect
import pickle
import pydoc

import dill
import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive as Naive_
from driver import network

import avalanche_dgm
import avalanche_dgm.lightning
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import MethodModule, module_of
from avalanche_dgm.methods import DGDMN, DGR, Naive
from avalanche_dgm.methods.registry import kinds
from avalanche_dgm.plugins import plugin_of, strategy_of
from avalanche_dgm.plugins.base import MethodPlugin
from avalanche_dgm.plugins.strategies import PluginStrategy

# Other tests may have registered methods of their own.
OURS = [kind for kind in kinds() if kind.__module__.startswith("avalanche_dgm.")]
KINDS = pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
OF_STRATEGIES = [
    name for name in inspect.signature(PluginStrategy).parameters if name != "replay_plugin"
]


@KINDS
def test_every_argument_is_named_and_explained(kind):
    hyper = [parameter.name for parameter in kind.settings_type.parameters()]
    assert hyper[0] == "settings"
    assert "seed" in hyper
    plugin = [*hyper, "oracle", "progress"]
    expected = {
        kind: hyper,
        plugin_of(kind): plugin,
        strategy_of(kind): [*OF_STRATEGIES, *plugin],
        module_of(kind): ["model", "optimizer", "criterion", *hyper],
    }
    for made, names in expected.items():
        assert [*inspect.signature(made).parameters] == names
        if made is kind:
            continue
        # Pydoc sets letters in bold by printing them twice.
        text = pydoc.plain(pydoc.render_doc(made))
        assert all(f"{name}: " in text for name in names)
        assert inspect.getdoc(kind).splitlines()[0] in text


@KINDS
def test_one_class_of_each_kind_under_its_name(kind):
    name = kind.__name__
    for make, suffix, package in (
        (plugin_of, "Plugin", avalanche_dgm),
        (strategy_of, "Strategy", avalanche_dgm),
        (module_of, "Module", avalanche_dgm.lightning),
    ):
        made = make(kind)
        assert made is make(kind)
        assert made.__name__ == name + suffix
        assert getattr(package, made.__name__) is made
        assert made.__name__ in package.__all__


def test_names_that_are_kept():
    with pytest.warns(FutureWarning, match=r"avalanche_dgm\.DGDMN is deprecated.*DGDMNStrategy"):
        assert avalanche_dgm.DGDMN is avalanche_dgm.DGDMNStrategy
    assert "DGDMN" not in avalanche_dgm.__all__


def test_names_that_are_not_there():
    for package, name in (
        (avalanche_dgm, "NothingPlugin"),
        (avalanche_dgm.plugins.made, "NothingPlugin"),
        (avalanche_dgm.plugins.strategies, "NothingStrategy"),
        (avalanche_dgm.lightning, "NothingModule"),
    ):
        with pytest.raises(AttributeError, match=name):
            getattr(package, name)


def test_a_method_s_own_calls_are_not_those_of_its_class():
    class Sized(DGR):
        def __init__(self, size):
            super().__init__(replay_size=size)

    assert [*inspect.signature(Sized).parameters] == ["size"]
    assert "replay_size" not in inspect.signature(Sized(3)).parameters
    forward = inspect.signature(module_of(DGR)(network()).forward).parameters
    assert [*forward] == ["images", "tasks"]
    assert "hyper" in inspect.signature(MethodModule).parameters
    assert [*inspect.signature(MethodPlugin).parameters] == ["method", "oracle", "progress"]


def test_help_is_about_our_classes():
    helps = inspect.getdoc(plugin_of(DGDMN).__init__)
    assert helps.startswith("Args:")
    assert "stm_size: Tasks that the short-term memory holds" in helps
    for package in (avalanche_dgm, avalanche_dgm.lightning):
        for name in package.__all__:
            made = getattr(package, name)
            if not inspect.isclass(made):
                continue
            assert vars(made).get("__doc__"), name
            foreign = [
                vars(base)["__init__"].__doc__
                for base in made.__mro__
                if "__init__" in vars(base)
                and base.__module__.startswith(("avalanche.", "pytorch_lightning.", "lightning."))
            ]
            said = inspect.getdoc(made.__init__)
            assert said not in [inspect.cleandoc(text) for text in foreign if text], name


def test_positions_of_arguments_are_those_of_avalanche():
    net, loss = network(), torch.nn.MSELoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.warns(Warning, match="accept named"):
        theirs = Naive_(net, optimizer, loss, 32, 2, 64)
    with pytest.warns(Warning, match="accept named"):
        ours = strategy_of(DGDMN)(net, optimizer, loss, 32, 2, 64, stm_size=3)
    for name in ("model", "optimizer", "train_mb_size", "train_epochs", "eval_mb_size"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours._criterion is theirs._criterion is loss
    assert ours.replay_plugin.method.settings.stm_size == 3


def test_unknown_arguments():
    with pytest.raises(ConfigError, match="stm_sizee"):
        plugin_of(DGDMN)(stm_sizee=3)
    with pytest.raises(ConfigError, match="stm_sizee"):
        module_of(DGDMN)(network(), stm_sizee=3)
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="stm_sizee"):
        strategy_of(DGDMN)(model=net, optimizer=optimizer, stm_sizee=3)
    made = strategy_of(DGDMN)(model=net, optimizer=optimizer, stm_size=3, train_epochs=2)
    assert made.replay_plugin.method.settings.stm_size == 3
    assert made.train_epochs == 2


class Mine(plugin_of(DGR)):
    pass


COPIES = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "dill": lambda thing: dill.loads(dill.dumps(thing)),
    "copy": copy.deepcopy,
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_copies_are_of_the_same_class(duplicate):
    plugin = plugin_of(DGR)(replay_size=7, progress=True)
    again = duplicate(plugin)
    assert type(again) is type(plugin)
    assert again.progress
    assert again.method.settings.replay_size == 7
    assert duplicate(plugin_of(DGR)) is plugin_of(DGR)
    module = duplicate(module_of(Naive)(network(), seed=3))
    assert type(module) is module_of(Naive)
    assert module.hparams["seed"] == 3


def test_a_strategy_s_checkpoint(tmp_path):
    def made():
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        evaluator = EvaluationPlugin(loggers=[])
        return strategy_of(DGR)(model=net, optimizer=optimizer, evaluator=evaluator)

    avalanche_dgm.save_checkpoint(made(), tmp_path / "strategy.pt")
    loaded, _ = avalanche_dgm.maybe_load_checkpoint(made(), tmp_path / "strategy.pt")
    assert type(loaded) is strategy_of(DGR)


def test_subclasses_are_what_they_are():
    made = pickle.loads(pickle.dumps(Mine(replay_size=7)))
    assert type(made) is Mine
    assert inspect.signature(Mine) == inspect.signature(plugin_of(DGR))

"""What is private in Lightning, PyTorch and Avalanche is still what `internals` takes it for."""

from __future__ import annotations

import inspect
import re
import signal
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import pytest
import torch
from avalanche.benchmarks.utils import data_loader
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from avalanche.training.templates import SupervisedTemplate
from avalanche.training.templates.base import BaseTemplate
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import avalanche_dgm.lightning
from avalanche_dgm import sklearn_digits
from avalanche_dgm.lightning import internals
from avalanche_dgm.lightning.package import pl

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.stepped, self.epochs, self.may_stop = [], [], []

    def training_step(self, batch, batch_idx):
        self.log("x", 1.0)
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_batch_end(self, *args):
        self.stepped.append(internals.takes_step(self.trainer))

    def on_train_epoch_end(self):
        self.epochs.append(self.trainer.current_epoch)
        self.may_stop.append(internals.may_stop(self.trainer))


def fit(trainer, module=None):
    module = module or Net()
    trainer.fit(module, DataLoader(torch.ones(6, 1), batch_size=2))
    return module


def test_only_one_file_touches_what_is_private():
    """``self._x`` and ``super()._x`` aside; so does ``_make_fit``, which is this package's own."""
    folder = Path(avalanche_dgm.lightning.__file__).parent
    found = {
        path.name
        for path in folder.rglob("*.py")
        for line in path.read_text().splitlines()
        for owner, name in re.findall(r"(super\(\)|[\w)\]]+)\._([a-z]\w*)", line.partition("#")[0])
        if owner not in ("self", "cls", "super()") and name != "make_fit"
    }
    assert found == {"internals.py"}


def test_what_is_replaced_comes_back():
    class Owner:
        usual = 1

    owner = Owner()
    owner.own = 2
    with internals.replaced(owner, usual=3, own=4):
        assert (owner.usual, owner.own) == (3, 4)
    assert vars(owner) == {"own": 2}
    assert owner.usual == 1


@pytest.mark.parametrize(
    ("strategy", "copies", "forks"),
    [("ddp_spawn", True, False), ("ddp_fork", True, True), ("ddp", False, None)],
)
def test_launchers(strategy, copies, forks):
    trainer = pl.Trainer(**QUIET, devices=2, strategy=strategy)
    assert internals.uses_multiprocessing(trainer) is copies
    if copies:
        assert internals.forks(trainer) is forks
    internals.remove_launcher(trainer)
    assert trainer.strategy.launcher is None


def test_what_ddp_ignores():
    module, same = nn.Linear(1, 1), nn.Linear(1, 1)
    internals.ignore_in_ddp(module, iter(["bias"]))
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(same, ["bias"])
    assert vars(module)["_ddp_params_and_buffers_to_ignore"] == ["bias"]
    assert internals.ignored_in_ddp(module) == internals.ignored_in_ddp(same) == ["bias"]


def test_what_ddp_expects():
    said = pl.Trainer(**QUIET, devices=2, strategy="ddp_find_unused_parameters_true")
    assert internals.finds_unused_parameters(said) is True
    trainer = pl.Trainer(**QUIET, devices=2, strategy="ddp")
    with internals.find_unused_parameters(trainer):
        assert internals.finds_unused_parameters(trainer) is True
        assert "self._ddp_kwargs" in inspect.getsource(type(trainer.strategy)._setup_model)
    assert internals.finds_unused_parameters(trainer) is None
    assert internals.finds_unused_parameters(pl.Trainer(**QUIET)) is None


def test_epochs_begin_where_they_are_told_and_steps_go_on():
    trainer = pl.Trainer(**QUIET, max_epochs=2, accumulate_grad_batches=2, min_epochs=2)
    module = fit(trainer)
    assert module.stepped == [False, True, True] * 2
    assert (module.epochs, module.may_stop) == ([0, 1], [False, True])
    assert trainer.global_step == 4
    trainer.fit_loop.max_epochs = 3
    internals.start_at_epoch(trainer, 1)
    fit(trainer, module)
    assert module.epochs == [0, 1, 1, 2]
    assert trainer.global_step == 8


def test_steps_are_those_of_loggers(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    trainer = pl.Trainer(**{**QUIET, "logger": logger}, max_epochs=1, log_every_n_steps=1)
    internals.set_steps(trainer, 100)
    fit(trainer)
    assert trainer.global_step == 103
    lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("step")
    assert [int(line.split(",")[column]) for line in lines[1:]] == [100, 101, 102]


def test_a_fit_loads_nothing(tmp_path):
    saves = pl.callbacks.OnExceptionCheckpoint(tmp_path)
    trainer = pl.Trainer(**{**QUIET, "enable_checkpointing": True}, max_epochs=1, callbacks=[saves])
    module = fit(trainer)
    trained = module.layer.weight.item()
    for loads, within in ((False, internals.loading_nothing(trainer)), (True, nullcontext())):
        # Each fit removes it. The epoch is over: nothing is trained.
        trainer.save_checkpoint(saves.ckpt_path)
        nn.init.constant_(module.layer.weight, 7.0)
        with within:
            fit(trainer, module)
        assert module.layer.weight.item() == (trained if loads else 7.0)
        nn.init.constant_(module.layer.weight, trained)


def test_slurm(monkeypatch):
    assert internals.requeue_signal(pl.Trainer(**QUIET)) is None
    environment = import_module(f"{pl.__name__}.plugins.environments").SLURMEnvironment
    for name, value in (("NTASKS", 1), ("JOB_NAME", "job"), ("JOB_ID", 7), ("PROCID", 0)):
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    for name in ("LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    assert internals.requeue_signal(pl.Trainer(**QUIET)) == signal.SIGUSR1
    plain = environment(auto_requeue=False)
    assert internals.requeue_signal(pl.Trainer(**QUIET, plugins=[plain])) is None


def test_sigterm_notifier():
    trainer = pl.Trainer(**QUIET)
    connector = trainer._signal_connector
    usual = connector._sigterm_notifier_fn
    with internals.without_sigterm_notifier(trainer):
        assert connector._sigterm_notifier_fn(signal.SIGTERM, None) is None
        assert connector._sigterm_notifier_fn != usual
    assert connector._sigterm_notifier_fn == usual
    registered = inspect.getsource(type(connector).register_signal_handlers)
    assert "self._sigterm_notifier_fn" in registered


def test_timers(monkeypatch):
    """Three fits of a second with pauses of ten, by a clock of the test's."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    timer, trainer = pl.callbacks.Timer({"seconds": 100}), pl.Trainer(**QUIET)
    assert internals.time_limit(timer) == 100
    assert internals.time_limit(pl.callbacks.Timer()) is None
    for begin in (50.0, 500.0):
        now[0] = begin
        with internals.stream_timers([timer]):
            for _ in range(3):
                now[0] += 10
                assert timer.time_elapsed() == now[0] - begin
                with internals.fit_timers([timer]):
                    timer.on_fit_start(trainer)
                    timer.on_train_start(None, None)
                    assert timer.time_elapsed() == now[0] - begin
                    now[0] += 1
                    assert timer.time_remaining() == 100 - (now[0] - begin)
                    timer.on_train_end(None, None)
                assert timer.time_elapsed() == now[0] - begin
        now[0] += 7
        assert timer.time_elapsed() == 33


@pytest.mark.parametrize("kind", ["TQDMProgressBar", "RichProgressBar"])
def test_settings_of_bars(kind):
    make = getattr(pl.callbacks, kind)
    given = {"refresh_rate": 3, "leave": True}
    given |= {"process_position": 1} if kind == "TQDMProgressBar" else {"console_kwargs": {"a": 1}}
    settings = internals.bar_settings(make(**given))
    assert given.items() <= settings.items()
    assert internals.bar_settings(make(**settings)) == settings
    missing = inspect.signature(make).parameters.keys() - settings.keys()
    assert missing == set(), "an argument that would be lost"


def strategy_of(*plugins, **options):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        train_mb_size=32,
        evaluator=EvaluationPlugin(loggers=[]),
        plugins=list(plugins),
        **options,
    )


@pytest.fixture(scope="module")
def experience():
    return sklearn_digits(n_experiences=5, n_train_per_class=20).train_stream[0]


def test_hooks_of_a_strategy():
    heard = []

    class Listener(SupervisedPlugin):
        def before_forward(self, strategy, **options):
            heard.append(options)

    internals.fire(strategy_of(Listener()), "before_forward", word=1)
    assert heard == [{"word": 1}]


def test_parts_of_a_strategy(experience):
    criterion = nn.CrossEntropyLoss()
    strategy = strategy_of(criterion=criterion)
    assert internals.criterion_of(strategy) is criterion
    strategy.stop_training()
    assert internals.stop_requested(strategy)
    internals.clear_stop_request(strategy)
    assert not internals.stop_requested(strategy)
    strategy.loss = None
    internals.reset_loss(strategy)
    assert float(strategy.loss.sum()) == 0.0
    strategy.device = torch.device("meta")
    strategy.mbatch = [torch.zeros(2), torch.zeros(2)]
    internals.unpack_batch(strategy)
    assert all(column.device.type == "meta" for column in strategy.mbatch)
    assert strategy._distributed_check is False
    internals.skip_distributed_check(strategy)
    assert strategy._distributed_check is True
    assert "_distributed_check" in inspect.getsource(BaseTemplate.train)


def test_loops_of_a_strategy(experience):
    strategy = strategy_of()
    seen = []

    def train(experience, streams, **options):
        internals.train_with_own_loop(strategy, experience, streams, **options)
        seen.append(strategy.clock.train_exp_iterations)

    loops = internals.with_loops(
        strategy, train=train, evaluate=lambda **options: seen.append("evaluated")
    )
    with loops:
        strategy.train(experience)
        strategy.eval(experience)
    assert seen == [2, "evaluated"]
    assert not {"_train_exp", "eval_epoch"} & vars(strategy).keys()


def test_updates_of_an_evaluator(experience):
    strategy, seen = strategy_of(), []
    evaluator = strategy.evaluator

    class Around:
        def __init__(self, hook):
            seen.append(hook)

        def __enter__(self):
            pass

        __exit__ = lambda *_: None  # noqa: E731

    with internals.with_updates(evaluator, Around):
        strategy.train(experience)
    assert strategy.evaluator is evaluator
    every = [name for name in dir(SupervisedTemplate.PLUGIN_CLASS) if name.startswith("before_tr")]
    assert set(every) <= set(seen)
    n = len(seen)
    strategy.eval(experience)
    assert len(seen) == n


def test_loaders_of_whole_batches(experience, monkeypatch):
    class Two:
        is_distributed, rank, world_size = True, 0, 2

    monkeypatch.setattr(data_loader, "DistributedHelper", Two())
    seen = []
    monkeypatch.setattr(
        data_loader, "DistributedSampler", lambda *a, **k: seen.append(1) or range(1), raising=True
    )
    make = lambda: data_loader.SingleDatasetDataLoader(experience.dataset, batch_size=8)  # noqa: E731
    with internals.full_batch_loaders():
        make()
    assert not seen
    make()
    assert seen

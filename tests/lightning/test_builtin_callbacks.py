"""Lightning's own callbacks in a stream: each works, or is refused by name."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from avalanche.training.supervised import Naive
from driver import network

from avalanche_dgm import sklearn_digits
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import DGRModule, NaiveModule, fit_stream, run_on_trainer
from avalanche_dgm.lightning.builtin_callbacks import SUPPORTED, UNSUPPORTED
from avalanche_dgm.lightning.package import pl

stock = pl.callbacks

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
STEPS, EPOCHS, BATCHES = 6, 2, 4
HYPER = {"generator_steps": STEPS, "hidden": (16,), "latent": 4, "seed": 0}


@pytest.fixture(scope="module")
def stream():
    return sklearn_digits(n_experiences=2, n_train_per_class=12, seed=0)


@pytest.fixture(scope="module")
def plain(stream):
    return learn(stream)[0].state_dict()


def classes_of(module):
    """The classes of what is remembered."""
    return module.method.ltm.generator.classes.labels


class Lines(pl.loggers.Logger):
    """Everything that is logged."""

    name = version = "lines"

    def __init__(self):
        super().__init__()
        self.lines = []

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.lines.append(dict(metrics))


def learn(stream, *callbacks, kind=DGRModule, hyper=None, **trainer):
    module = kind(network(), **((HYPER if kind is DGRModule else {}) | (hyper or {})))
    result = fit_stream(
        module,
        stream,
        trainer={**QUIET, "max_epochs": EPOCHS, **trainer},
        callbacks=callbacks,
        batch_size=15,
    )
    return module, result


def test_every_callback_of_lightning_has_its_row():
    names = [n for n in stock.__all__ if issubclass(getattr(stock, n), stock.Callback)]
    assert not SUPPORTED.keys() & UNSUPPORTED.keys()
    assert set(names) <= SUPPORTED.keys() | UNSUPPORTED.keys()


def test_the_documentation_has_the_same_rows():
    page = (Path(__file__).parents[2] / "docs" / "lightning.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (works|refused): (.*) \|$", page, flags=re.MULTILINE)
    assert rows == [
        (name, "works" if name in SUPPORTED else "refused", (SUPPORTED | UNSUPPORTED)[name])
        for name in sorted(SUPPORTED | UNSUPPORTED, key=str.lower)
    ]


# Those that work: each leaves the weights as they are without it, and does what it is for.


def passive():
    """A callback of each kind that only looks on, with what it has to have seen."""
    fits, steps = 4, 2 * (STEPS + EPOCHS * BATCHES)
    seen = []

    class Own(stock.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            seen.append(module.stage_name)

    class Saving(stock.Checkpoint):
        def on_train_epoch_end(self, trainer, module):
            seen.append(module.stage_name)

    class Bar(stock.ProgressBar):
        def on_train_batch_end(self, trainer, module, *args):
            super().on_train_batch_end(trainer, module, *args)
            seen.append(self.total_train_batches)

    writer = Writer("batch")
    lines = Lines()
    loud = {"logger": lines, "log_every_n_steps": 1}

    def rates():
        return [value for line in lines.lines for name, value in line.items() if name == "lr-Adam"]

    return {
        "Callback": (Own(), {}, lambda: len(seen) == steps),
        "LambdaCallback": (
            stock.LambdaCallback(on_fit_start=lambda *_: seen.append(1)),
            {},
            lambda: len(seen) == fits,
        ),
        "Checkpoint": (
            Saving(),
            {},
            lambda: len(seen) == 2 * EPOCHS and all(n.endswith("learning") for n in seen),
        ),
        "ProgressBar": (
            Bar(),
            {"enable_progress_bar": True},
            lambda: seen == ([STEPS] * STEPS + [BATCHES] * EPOCHS * BATCHES) * 2,
        ),
        "BasePredictionWriter": (writer, {}, lambda: not writer.written),
        "DeviceStatsMonitor": (
            stock.DeviceStatsMonitor(cpu_stats=True),
            loud,
            lambda: sum(any("cpu_percent" in n for n in line) for line in lines.lines) >= steps,
        ),
        "LearningRateMonitor": (
            stock.LearningRateMonitor(),
            loud,
            lambda: rates() and set(rates()[-EPOCHS * BATCHES :]) == {1e-3},
        ),
        "Timer": (timer := stock.Timer(), {}, lambda: timer.time_elapsed() > 0),
    }


class Writer(stock.BasePredictionWriter):
    def __init__(self, interval):
        super().__init__(interval)
        self.written = []

    def write_on_batch_end(self, trainer, pl_module, prediction, *args):
        self.written.append(prediction)


@pytest.mark.parametrize("name", sorted(passive()))
def test_what_looks_on(stream, plain, name):
    callback, flags, check = passive()[name]
    module, result = learn(stream, callback, **flags)
    assert len(result) == 2
    assert check()
    same = module.state_dict()
    assert all(torch.equal(v, same[k]) for k, v in plain.items() if torch.is_tensor(v))


def test_predictions_are_written_afterwards(stream):
    module, _ = learn(stream)
    writer, images = Writer("batch"), torch.rand(6, 1, 8, 8)
    trainer = pl.Trainer(callbacks=[writer], logger=False, enable_checkpointing=False, **QUIET)
    trainer.predict(module, images.split(3), return_predictions=False)
    torch.testing.assert_close(torch.cat(writer.written), module(images))


@pytest.mark.parametrize("kind", [stock.ModelSummary, stock.RichModelSummary])
def test_summaries(stream, plain, capsys, caplog, kind):
    caplog.set_level("INFO")
    module, _ = learn(stream, kind(max_depth=1))
    said = capsys.readouterr().out + caplog.text
    assert "DGR" in said
    same = module.state_dict()
    assert all(torch.equal(v, same[k]) for k, v in plain.items() if torch.is_tensor(v))


@pytest.mark.parametrize("kind", [stock.TQDMProgressBar, stock.RichProgressBar])
def test_bars(stream, plain, capsys, kind):
    module, _ = learn(stream, kind(), enable_progress_bar=True)
    captured = capsys.readouterr()
    assert "experience 1/2" in captured.out + captured.err
    same = module.state_dict()
    assert all(torch.equal(v, same[k]) for k, v in plain.items() if torch.is_tensor(v))


def test_early_stopping(stream):
    stop = stock.EarlyStopping("train/accuracy", mode="max", patience=0, min_delta=2.0)
    _, result = learn(stream, stop, max_epochs=5)
    assert result.iterations == [2 * BATCHES] * 2


@pytest.mark.parametrize(
    ("options", "n"),
    [
        ({"monitor": "train/loss"}, 1),
        ({"save_top_k": -1}, EPOCHS),
        ({"every_n_epochs": 2, "save_top_k": -1}, 1),
        ({"save_last": True, "save_top_k": 0}, 1),
        ({"monitor": "train/loss", "save_last": True}, 2),
        ({"every_n_train_steps": 1, "save_top_k": -1}, EPOCHS * BATCHES),
        ({"train_time_interval": timedelta(microseconds=1), "save_top_k": -1}, None),
    ],
    ids=str,
)
def test_model_checkpoints(stream, tmp_path, options, n):
    """So many files of each experience, none of a phase, and the best of each loads."""
    save = stock.ModelCheckpoint(tmp_path, **options)
    module, result = learn(stream, save)
    files = list(tmp_path.iterdir())
    # One of them for the whole stream: the last.
    assert n is None or len(files) == 2 * n - bool(options.get("save_last"))
    assert all(path in map(str, files) for path in result.best_checkpoints if path)
    if options.get("save_last"):
        assert save.last_model_path == str(tmp_path / "last.ckpt")
    last = save.last_model_path or save.best_model_path
    loaded = DGRModule.load_from_checkpoint(last, model=network())
    if "monitor" not in options or "save_last" in options:
        images = torch.rand(5, 1, 8, 8)
        assert torch.equal(loaded.eval()(images), module.eval()(images))
    assert classes_of(loaded).tolist() == list(range(10)), "the generator was trained before"


@pytest.mark.parametrize("phase", [True, False])
def test_on_exception(stream, tmp_path, phase):
    """What fails is saved, in a phase or not."""

    class Fails(stock.Callback):
        def on_train_batch_start(self, trainer, module, *args):
            if phase is module.stage_name.endswith("generator"):
                raise RuntimeError("no more")

    save = stock.OnExceptionCheckpoint(tmp_path)
    with pytest.raises(RuntimeError, match="no more"):
        learn(stream, Fails(), save)
    content = torch.load(tmp_path / "on_exception.ckpt", weights_only=False)
    assert "model.1.weight" in content["state_dict"]


def test_what_an_exception_left_is_not_loaded_into_later_fits(stream, plain, tmp_path):
    """Lightning would load it into each; and what another callback saved as the last, too."""

    class Fails(stock.Callback):
        def on_train_batch_start(self, trainer, module, *args):
            if module.stage_name.endswith("learning"):
                raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        learn(stream, Fails(), stock.OnExceptionCheckpoint(tmp_path))
    last = stock.ModelCheckpoint(tmp_path, save_last=True)
    module, result = learn(stream, stock.OnExceptionCheckpoint(tmp_path), last)
    assert (len(result), result.stopped) == (2, None)
    same = module.state_dict()
    assert all(torch.equal(v, same[k]) for k, v in plain.items() if torch.is_tensor(v))


# Those that do not.


def refused():
    backbone = type("Freezing", (stock.BaseFinetuning,), {})
    build = {
        "BackboneFinetuning": stock.BackboneFinetuning,
        "BaseFinetuning": backbone,
        "BatchSizeFinder": stock.BatchSizeFinder,
        "EMAWeightAveraging": lambda: stock.EMAWeightAveraging(decay=0.9),
        "GradientAccumulationScheduler": lambda: stock.GradientAccumulationScheduler({1: 2}),
        "LearningRateFinder": stock.LearningRateFinder,
        "ModelPruning": lambda: stock.ModelPruning("l1_unstructured", amount=0.1),
        "SpikeDetection": stock.SpikeDetection,
        "StochasticWeightAveraging": lambda: stock.StochasticWeightAveraging(1e-3),
        "ThroughputMonitor": lambda: stock.ThroughputMonitor(len),
        "WeightAveraging": lambda: type("Mine", (stock.WeightAveraging,), {})(use_buffers=False),
    }
    assert build.keys() == UNSUPPORTED.keys()
    return build.items()


@pytest.mark.parametrize(("name", "build"), list(refused()), ids=[n for n, _ in refused()])
def test_what_is_refused(stream, name, build):
    callback = build()
    module, before = NaiveModule(network()), network().state_dict()
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, callbacks=[callback], **QUIET)
    kept = list(trainer.callbacks)
    strategy = Naive(
        model=module.model, optimizer=torch.optim.SGD(module.model.parameters()), train_mb_size=16
    )
    own = type("Own", (NaiveModule,), {"configure_callbacks": lambda self: callback})
    for work in (
        lambda: fit_stream(module, stream, trainer=QUIET, callbacks=[callback]),
        lambda: fit_stream(module, stream, trainer={**QUIET, "callbacks": callback}),
        lambda: fit_stream(module, stream, trainer=trainer),
        lambda: fit_stream(own(network()), stream, trainer=QUIET),
        lambda: run_on_trainer(strategy, stream, trainer={**QUIET, "callbacks": [callback]}),
    ):
        with pytest.raises(ConfigError, match=f"The callback {type(callback).__name__} cannot"):
            work()
    assert trainer.callbacks == kept
    assert all(torch.equal(v, before[k]) for k, v in module.model.state_dict().items())


def test_what_needs_a_logger(stream):
    for callback in (stock.DeviceStatsMonitor(), stock.LearningRateMonitor()):
        with pytest.raises(ConfigError, match="needs a logger"):
            learn(stream, callback)


@pytest.mark.parametrize("kind", [stock.EarlyStopping, stock.ModelCheckpoint])
def test_a_value_that_is_not_logged_is_named_before_anything_is_trained(stream, kind, tmp_path):
    module, before = DGRModule(network(), **HYPER), network().state_dict()
    place = {"dirpath": tmp_path} if kind is stock.ModelCheckpoint else {}
    for monitor in ("val_loss", "val/loss", "sleep/learner/loss"):
        callback = kind(monitor=monitor, **place)
        with pytest.raises(ConfigError, match=f"monitors '{monitor}'.* are train/loss"):
            fit_stream(module, stream, trainer=QUIET, callbacks=[callback])
    assert all(torch.equal(v, before[k]) for k, v in module.model.state_dict().items())
    assert not module.method.experiences


class Logging(stock.Callback):
    """A value of the user's own."""

    def on_train_epoch_end(self, trainer, module):
        module.log("mine", 1.0)


def test_values_of_the_user_s_own_may_be_monitored(stream):
    stop = stock.EarlyStopping("mine", patience=0)
    _, result = learn(stream, Logging(), stop, max_epochs=5)
    assert result.iterations == [2 * BATCHES] * 2


class Averaging(stock.Callback):
    """Averages everything, as a callback of somebody else's might."""

    def on_train_start(self, trainer, module):
        self.average = {k: v.double() for k, v in module.named_buffers()}

    def on_train_end(self, trainer, module):
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(0.9 * self.average[name] + 0.099 * buffer)


def test_the_books_cannot_be_averaged(stream):
    """Not even by a callback that is in no table."""
    module = DGRModule(network(), **HYPER)

    class Late(Averaging):
        def on_train_end(self, trainer, module):
            if module.stage_name.startswith("experience 2"):
                super().on_train_end(trainer, module)

    with pytest.raises(ConfigError, match="has changed .*integer buffers"):
        fit_stream(module, stream, trainer=QUIET, callbacks=[Late()], batch_size=15)
    assert classes_of(module).tolist() == list(range(5))

"""Flags that shorten or change a training: phases keep their steps, and counts are true."""

import warnings
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from driver import network

from avalanche_dgm import DGRPlugin, sklearn_digits
from avalanche_dgm.errors import CheckpointError, ConfigError
from avalanche_dgm.lightning import (
    DGDMNModule,
    DGRModule,
    LatentReplayModule,
    NaiveModule,
    fit_stream,
    run_on_trainer,
)
from avalanche_dgm.lightning.package import pl

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
STEPS, EPOCHS = 6, 2
HYPER = {"generator_steps": STEPS, "hidden": (16,), "latent": 4, "seed": 0}


@pytest.fixture(scope="module")
def stream():
    """Two experiences of 60 samples: 3 batches of 16, and one of 12."""
    return sklearn_digits(n_experiences=2, n_train_per_class=12, seed=0)


class Count(pl.Callback):
    """Batches of each kind, and the samples of the classifier's."""

    def __init__(self):
        self.batches, self.seen = {}, []

    def on_train_batch_start(self, trainer, module, batch, *args):
        kind = module.stage_name.rpartition(": ")[2]
        self.batches[kind] = self.batches.get(kind, 0) + 1
        if kind == "learning" and len(batch):
            self.seen.append(batch[0])

    def on_validation_batch_start(self, *args):
        self.batches["validation"] = self.batches.get("validation", 0) + 1

    def on_test_batch_start(self, *args):
        self.batches["test"] = self.batches.get("test", 0) + 1


def learn(stream, module=None, *, callbacks=(), **trainer):
    count = Count()
    module = DGRModule(network(), **HYPER) if module is None else module
    result = fit_stream(
        module,
        stream,
        trainer={**QUIET, "max_epochs": EPOCHS, **trainer},
        callbacks=[count, *callbacks],
        batch_size=16,
        eval_batch_size=32,
    )
    return count, result


#: Flags, and what is left of the 4 batches of each epoch.
SHORTENED = [
    ({}, 4),
    ({"limit_train_batches": 3}, 3),
    ({"limit_train_batches": 0.5}, 2),
    ({"limit_train_batches": 0.01}, 1),
    ({"limit_train_batches": 50}, 4),
    ({"overfit_batches": 2}, 2),
    ({"limit_train_batches": 3, "accumulate_grad_batches": 2}, 3),
    ({"limit_train_batches": 3, "reload_dataloaders_every_n_epochs": 1}, 3),
]


@pytest.mark.parametrize(("flags", "n"), SHORTENED)
def test_phases_keep_their_steps_and_counts_are_true(stream, flags, n):
    count, result = learn(stream, **flags)
    steps = STEPS * flags.get("accumulate_grad_batches", 1)
    assert count.batches["generator"] == 2 * steps
    assert count.batches["learning"] == 2 * EPOCHS * n
    assert result.iterations == [EPOCHS * n] * 2
    assert result.shown == [sum(map(len, part)) for part in halves(count.seen)]
    assert result.shown == [EPOCHS * min(16 * n, 60)] * 2
    if "overfit_batches" in flags:
        for part in halves(count.seen):
            assert torch.equal(torch.stack(part[:n]), torch.stack(part[n:])), "the same each epoch"


def halves(rows):
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def test_alternating_replay_counts_batches_of_new_samples(stream):
    module = LatentReplayModule(network(), layer="1", schedule="alternating", per_class=4)
    count, result = learn(stream, module, limit_train_batches=3)
    assert result.iterations == [EPOCHS * 3] * 2
    assert result.shown == [EPOCHS * 48] * 2
    assert count.batches["learning"] == EPOCHS * 3 + 2 * EPOCHS * 3


class Impatient(pl.Callback):
    """Stops the classifier at its fifth batch."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        learning = module.stage_name.endswith("learning")
        trainer.should_stop = learning and (trainer.current_epoch, batch_idx) == (1, 0)


def test_counts_of_an_experience_that_stopped_early(stream):
    _, result = learn(stream, NaiveModule(network()), callbacks=[Impatient()])
    assert (result.iterations, result.shown) == ([5, 5], [60 + 16] * 2)


def test_counts_go_on_after_an_interruption(stream, tmp_path):
    """Also where the classifier's training was over."""

    class Ends(pl.Callback):
        def on_test_start(self, *args):
            raise KeyboardInterrupt

    def run(*callbacks, resume, **flags):
        return fit_stream(
            DGRModule(network(), **HYPER),
            stream,
            trainer={**QUIET, "max_epochs": EPOCHS, **flags},
            callbacks=callbacks,
            batch_size=16,
            checkpoint_dir=tmp_path,
            resume=resume,
        )

    with pytest.raises(KeyboardInterrupt):
        run(Ends(), resume=False)
    for flag, value in (("limit_train_batches", 3), ("accumulate_grad_batches", 2)):
        with pytest.raises(CheckpointError, match=flag):
            run(resume=True, **{flag: value})
    result = run(resume=True)
    assert (result.iterations, result.shown) == ([8, 8], [120, 120])


@pytest.mark.parametrize("n", [1, 2])
def test_fast_dev_run_is_a_smoke_test_of_the_whole_stream(stream, tmp_path, n):
    lines = Lines()
    evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[lines])
    save, count = pl.callbacks.ModelCheckpoint(tmp_path / "best"), Count()
    module = DGDMNModule(
        network(), seed=0, generator_steps=9, learner_steps=9, stm_size=1, hidden=(8,), latent=2
    )
    with pytest.warns(UserWarning, match="smoke test of the whole stream"):
        result = fit_stream(
            module,
            stream,
            trainer={**QUIET, "fast_dev_run": n, "logger": pl.loggers.CSVLogger(tmp_path / "logs")},
            callbacks=[count, save],
            evaluator=evaluator,
            epochs=5,
            batch_size=16,
            eval_batch_size=32,
            checkpoint_dir=tmp_path / "run",
            resume=True,
        )
    assert len(result) == 2
    assert result.stopped is None
    assert set(count.batches.values()) <= {n, 2 * n, 4 * n}, "so many batches of each"
    assert {"learning", "test"} < count.batches.keys()
    assert any(name.endswith("(learner)") for name in count.batches), "it slept"
    assert result.iterations == [n, n]
    assert lines.written == 0
    assert evaluator.loggers == [lines]
    assert not list(tmp_path.iterdir()), "nothing is written"


class Lines(BaseLogger):
    """Counts what an evaluator logs."""

    def __init__(self):
        super().__init__()
        self.written = 0

    def log_single_metric(self, *args):
        self.written += 1


def test_tests_that_are_shortened_or_left_out(stream):
    whole, expected = learn(stream)
    count, result = learn(stream, limit_test_batches=1)
    tests = [e.dataset.eval() for e in stream.test_stream]
    assert whole.batches["test"] == 2 * sum(-(-len(test) // 32) for test in tests)
    assert count.batches["test"] == 4
    assert expected.accuracy.shape == result.accuracy.shape
    module = DGRModule(network(), **HYPER)
    fit_stream(module, stream, trainer={**QUIET, "max_epochs": EPOCHS}, batch_size=16)
    with torch.no_grad():
        for j, test in enumerate(tests):
            images = torch.stack([test[i][0] for i in range(32)])
            labels = torch.tensor([test[i][1] for i in range(32)])
            right = float((module.eval()(images).argmax(1) == labels).float().mean())
            assert result.accuracy[1, j] == pytest.approx(right)
    count, result = learn(stream, limit_test_batches=0)
    assert "test" not in count.batches
    assert result.accuracy.isnan().all()
    assert result.average_accuracy != result.average_accuracy
    assert result.continual == {}


@pytest.mark.parametrize(
    ("flags", "validated"),
    [
        ({}, 2),
        ({"limit_val_batches": 1}, 2),
        ({"limit_val_batches": 0.001}, 2),
        ({"limit_val_batches": 0}, 0),
        ({"val_check_interval": 2}, 4),
        ({"val_check_interval": 50}, 2),
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, 2),
        ({"val_check_interval": timedelta(microseconds=1)}, 8),
        ({"check_val_every_n_epoch": 2}, 1),
    ],
)
def test_validation(stream, flags, validated):
    """Passes over the validation stream in two epochs of four batches; phases have none."""
    tests = list(stream.test_stream)
    held_out = SimpleNamespace(train_stream=stream.train_stream, test_stream=[], valid_stream=tests)
    count = Count()
    fit_stream(
        DGRModule(network(), **HYPER),
        held_out,
        trainer={**QUIET, "max_epochs": EPOCHS, "num_sanity_val_steps": 0, **flags},
        callbacks=[count],
        batch_size=16,
        eval_batch_size=1000,
        test="none",
    )
    assert count.batches.get("validation", 0) == 2 * validated
    assert count.batches["generator"] == 2 * STEPS


#: What leaves the result as it is.
HARMLESS = [
    {"num_sanity_val_steps": 2},
    {"detect_anomaly": True},
    {"profiler": "simple"},
    {"barebones": True, "enable_progress_bar": None},
    {"reload_dataloaders_every_n_epochs": 1},
    {"inference_mode": True},
    {"deterministic": True},
    {"benchmark": False},
    {"use_distributed_sampler": False},
    {"enable_checkpointing": False},
    {"min_epochs": 1},
    {"limit_predict_batches": 1},
    {"max_time": "00:01:00:00"},
]


@pytest.fixture(scope="module")
def plain(stream):
    return learn(stream)[1].accuracy


@pytest.mark.parametrize("flags", HARMLESS, ids=lambda flags: next(iter(flags)))
def test_flags_that_change_nothing(stream, plain, flags):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count, result = learn(stream, **flags)
    assert torch.equal(result.accuracy, plain)
    assert count.batches["generator"] == 2 * STEPS


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"max_steps": 10}, "max_steps=10"),
        ({"min_steps": 10}, "min_steps=10"),
        ({"max_epochs": -1}, "epochs=-1"),
        ({"max_epochs": 0}, "epochs=0"),
        ({"limit_train_batches": 0}, "limit_train_batches=0"),
        ({"profiler": "pytorch"}, "PyTorchProfiler"),
    ],
)
def test_flags_that_cannot_work(stream, flags, message):
    with pytest.raises(ConfigError, match=message):
        learn(stream, **flags)


def test_the_trainer_keeps_its_flags(stream):
    trainer = pl.Trainer(
        max_epochs=1,
        limit_train_batches=2,
        min_epochs=1,
        logger=False,
        enable_checkpointing=False,
        **QUIET,
    )
    fit_stream(DGRModule(network(), **HYPER), stream, trainer=trainer, batch_size=16)
    assert (trainer.limit_train_batches, trainer.limit_test_batches) == (2, 1.0)
    assert trainer.min_epochs == 1


@pytest.mark.parametrize(
    ("flags", "n", "epochs"),
    [
        ({"limit_train_batches": 3}, 3, EPOCHS),
        ({"limit_train_batches": 0.01}, 1, EPOCHS),
        ({"overfit_batches": 2}, 2, EPOCHS),
        ({"fast_dev_run": True}, 1, 1),
    ],
)
def test_strategies(stream, flags, n, epochs):
    model, count, lines = network(), Count(), Lines()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters()),
        train_mb_size=16,
        train_epochs=EPOCHS,
        eval_mb_size=1000,
        plugins=[DGRPlugin(**HYPER)],
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[lines]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_on_trainer(strategy, stream, trainer={**QUIET, **flags}, callbacks=[count])
    learned = sum(k for name, k in count.batches.items() if name.startswith("experience"))
    assert learned == 2 * epochs * n == strategy.clock.train_iterations
    phase = n if "fast_dev_run" in flags else STEPS
    assert sum(k for name, k in count.batches.items() if "generator" in name) == 2 * phase
    assert bool(lines.written) is ("fast_dev_run" not in flags)
    assert strategy.evaluator.loggers == [lines]


def test_a_strategy_that_is_not_tested(stream):
    model, count = network(), Count()
    strategy = Naive(model=model, optimizer=torch.optim.Adam(model.parameters()), train_mb_size=16)
    results = run_on_trainer(
        strategy, stream, trainer={**QUIET, "limit_test_batches": 0}, callbacks=[count]
    )
    assert "test" not in count.batches
    assert not any("eval_phase" in name for name in results[-1])

"""A stream that is ended early: it says so, and goes on later as if nothing had happened."""

import os
import signal
import time
import warnings

import pytest
import torch
from avalanche.training.supervised import Naive
from driver import in_a_process, network

from avalanche_dgm import DGRPlugin, sklearn_digits
from avalanche_dgm.lightning import DGRModule, NaiveModule, fit_stream, run_on_trainer
from avalanche_dgm.lightning.package import pl

STEPS, EPOCHS, BATCHES = 6, 3, 4
HYPER = {"generator_steps": STEPS, "hidden": (16,), "latent": 4, "seed": 0}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
SIGTERM_CODE = 143


@pytest.fixture(scope="module")
def stream():
    return sklearn_digits(n_experiences=2, n_train_per_class=12, seed=0)


class At(pl.Callback):
    """Does something at a batch, counted over everything that is trained."""

    def __init__(self, batch=None, act=None):
        self.batch, self.act, self.stages = batch, act, []

    def on_train_batch_start(self, trainer, pl_module, *args):
        self.stages.append(pl_module.stage_name)
        if len(self.stages) - 1 == self.batch:
            self.act(trainer)


def run_out(trainer):
    """Puts the end of a limit of time into the past."""
    (timer,) = (c for c in trainer.callbacks if isinstance(c, pl.callbacks.Timer))
    timer._duration = 0.0


def stop(trainer):
    trainer.should_stop = True


def end(number):
    return lambda trainer: os.kill(os.getpid(), number)


def learn(stream, folder=None, *callbacks, resume=False, kind=DGRModule, **trainer):
    module = kind(network(), **(HYPER if kind is DGRModule else {}))
    result = fit_stream(
        module,
        stream,
        trainer={**QUIET, "max_epochs": EPOCHS, **trainer},
        callbacks=callbacks,
        batch_size=15,
        checkpoint_dir=folder,
        resume=resume,
    )
    return module, result


def strategy_of(epochs=EPOCHS, steps=STEPS):
    torch.manual_seed(0)
    model = network()
    plugin = DGRPlugin(**{**HYPER, "generator_steps": steps})
    return Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters()),
        train_mb_size=15,
        train_epochs=epochs,
        eval_mb_size=50,
        plugins=[plugin],
    )


def equal(one, two):
    assert one.keys() == two.keys()
    return all(torch.equal(v, two[k]) for k, v in one.items() if torch.is_tensor(v))


@pytest.fixture(scope="module")
def whole(stream):
    watch = At()
    module, result = learn(stream, None, watch)
    assert len(watch.stages) == 2 * (STEPS + EPOCHS * BATCHES)
    return module.state_dict(), result


#: In a phase, at its end, in an epoch, at the end of one, of the last one; later.
MOMENTS = (0, STEPS - 1, STEPS, STEPS + BATCHES - 1, STEPS + EPOCHS * BATCHES - 1, 20, 30)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_limit_of_time_ends_the_stream_and_it_goes_on(stream, whole, tmp_path, moment):
    watch = At(moment, run_out)
    with pytest.warns(UserWarning, match=r"experiences were learned.*resume=True continues"):
        module, result = learn(stream, tmp_path, watch, pl.callbacks.Timer("00:01:00:00"))
    assert result.stopped == "The time limit of 0 s is over."
    assert module.method.experiences == len(result), "what is broken off is not remembered"
    assert len(watch.stages) == moment + 1, "it ends at the next step"
    assert len(result) == (moment + 1) // (STEPS + EPOCHS * BATCHES)
    again = At()
    module, result = learn(stream, tmp_path, again, pl.callbacks.Timer("00:01:00:00"), resume=True)
    assert len(watch.stages) + len(again.stages) == 2 * (STEPS + EPOCHS * BATCHES)
    assert equal(module.state_dict(), whole[0])
    assert torch.equal(result.accuracy, whole[1].accuracy)
    assert result.stopped is None


def test_it_waits_for_a_whole_step(stream, tmp_path):
    """Gradients that are summed up cannot be saved."""
    expected, _ = learn(stream, accumulate_grad_batches=2)
    watch = At(2 * STEPS, run_out)
    with pytest.warns(UserWarning, match="experiences were learned"):
        learn(stream, tmp_path, watch, pl.callbacks.Timer("00:01:00:00"), accumulate_grad_batches=2)
    assert len(watch.stages) == 2 * STEPS + 2
    module, _ = learn(stream, tmp_path, resume=True, accumulate_grad_batches=2)
    assert equal(module.state_dict(), expected.state_dict())


def test_max_time_without_a_folder(stream):
    """Neither loops without progress."""
    limit = {**QUIET, "max_time": {"seconds": 0.3}}
    started = time.monotonic()
    module = DGRModule(network(), **{**HYPER, "generator_steps": 10**6})
    with pytest.warns(UserWarning, match=r"0 of 2 experiences were .* experience is not saved"):
        result = fit_stream(module, stream, trainer=limit)
    assert len(result) == 0
    assert result.stopped == "The time limit of 0.3 s is over."
    with pytest.warns(UserWarning, match="0 of 2 experiences were learned"):
        assert run_on_trainer(strategy_of(steps=10**6), stream, trainer=limit) == []
    assert time.monotonic() - started < 20


def test_a_timer_counts_over_the_stream(stream):
    """Each fit would begin anew, and all but the first would count backwards."""
    timer, seen = pl.callbacks.Timer(), []
    watch = At()
    watch.on_train_end = lambda *_: seen.append(timer.time_elapsed())
    started = time.monotonic()
    for _ in range(2):
        learn(stream, None, timer, watch)
        took, started = time.monotonic() - started, time.monotonic()
        assert len(seen) == 4
        assert 0 < seen[0] < seen[1] < seen[2] < seen[3] <= timer.time_elapsed() <= took
        assert timer.time_elapsed() > 0.5 * took
        seen.clear()


@pytest.mark.parametrize("moment", [3, STEPS + 2, 21])
def test_a_strategy_goes_on(stream, tmp_path, moment):
    """Under a Trainer it is saved after each experience."""
    expected = strategy_of()
    results = run_on_trainer(expected, stream, trainer=QUIET)
    callbacks = [At(moment, run_out), pl.callbacks.Timer("00:01:00:00")]
    options = {"trainer": QUIET, "checkpoint_dir": tmp_path}
    with pytest.warns(UserWarning, match=f"{moment // 18} of 2 experiences were learned"):
        some = run_on_trainer(strategy_of(), stream, callbacks=callbacks, **options)
    assert len(some) == moment // 18
    again = strategy_of()
    found = run_on_trainer(again, stream, resume=True, **options)
    assert equal(again.model.state_dict(), expected.model.state_dict())
    assert [m["Top1_Acc_Stream/eval_phase/test_stream/Task000"] for m in found] == [
        m["Top1_Acc_Stream/eval_phase/test_stream/Task000"] for m in results
    ]


@pytest.mark.parametrize("moment", [2, STEPS + 5])
def test_sigterm(stream, whole, tmp_path, moment):
    """The process ends with its usual code, and the next one goes on at the very step."""

    def work():
        try:
            learn(stream, tmp_path, At(moment, end(signal.SIGTERM)))
        except SystemExit as leaving:
            os._exit(leaving.code)

    assert in_a_process(work) == SIGTERM_CODE
    again = At()
    module, _ = learn(stream, tmp_path, again, resume=True)
    assert len(again.stages) == len(whole[1]) * 18 - moment - 1
    assert equal(module.state_dict(), whole[0])


class InTest(pl.Callback):
    def on_test_batch_start(self, trainer, *args):
        os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_in_a_test(stream, whole, tmp_path):
    """Lightning looks for it in fits only."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.warns(UserWarning, match="0 of 2"), pytest.raises(SystemExit) as caught:
        learn(stream, tmp_path, InTest())
    assert caught.value.code == SIGTERM_CODE
    assert signal.getsignal(signal.SIGTERM) is before
    module, _ = learn(stream, tmp_path, resume=True)
    assert equal(module.state_dict(), whole[0])
    with pytest.warns(UserWarning, match="0 of 2"), pytest.raises(SystemExit):
        run_on_trainer(strategy_of(), stream, trainer=QUIET, callbacks=[InTest()])


@pytest.fixture
def slurm(monkeypatch):
    job = {"NTASKS": 1, "JOB_NAME": "job", "JOB_ID": 7, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))


@pytest.mark.usefixtures("slurm")
def test_a_job_of_slurm_without_its_command(stream, tmp_path, monkeypatch):
    """As in a container: the run is saved, and a warning replaces the requeueing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    message = "did not requeue job 7.*scontrol"
    with pytest.warns(UserWarning, match=message), pytest.raises(SystemExit) as ended:
        learn(stream, tmp_path / "run", At(STEPS + 5, end(signal.SIGUSR1)))
    assert ended.value.code == SIGTERM_CODE


@pytest.mark.usefixtures("slurm")
def test_a_job_of_slurm_is_queued_again(stream, whole, tmp_path, monkeypatch):
    command = tmp_path / "bin" / "scontrol"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    with pytest.warns(UserWarning, match="0 of 2"), pytest.raises(SystemExit):
        learn(stream, folder, At(STEPS + 5, end(signal.SIGUSR1)))
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    assert not list(tmp_path.glob("hpc_ckpt*")), "that would be loaded into every later fit"
    # What another training has left there.
    (tmp_path / "hpc_ckpt_1.ckpt").touch()
    module, _ = learn(stream, folder, resume=True)
    assert equal(module.state_dict(), whole[0])


def test_what_a_callback_stops(stream, whole):
    """An experience's epochs may be fewer; a phase needs all of its steps, and something."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*treespec|.*num_workers")
        watch = At(STEPS + 1, stop)
        _, result = learn(stream, None, watch)
    assert (len(result), result.stopped) == (2, None)
    assert len(watch.stages) == 2 * STEPS + 2 + EPOCHS * BATCHES
    with pytest.warns(UserWarning, match="A callback stopped the Trainer in 'experience 2/2"):
        _, result = learn(stream, None, At(18 + 3, stop))
    assert len(result) == 1
    for hook in ("on_fit_start", "on_train_start", "on_train_epoch_start"):
        watch = At()
        setattr(watch, hook, lambda trainer, *_: stop(trainer))
        with pytest.warns(UserWarning, match="before it had trained 'experience 1/2"):
            _, result = learn(stream, None, watch, kind=NaiveModule)
        assert (len(result), watch.stages) == (0, [])
        plain = strategy_of()
        plain.plugins = [p for p in plain.plugins if not isinstance(p, DGRPlugin)]
        with pytest.warns(UserWarning, match="before it had trained"):
            assert run_on_trainer(plain, stream, trainer=QUIET, callbacks=[watch]) == []


def test_stopping_early_and_the_end_of_the_time_together(stream, tmp_path):
    """At the end of an epoch the first ends the experience, the second the stream."""

    def early():
        return pl.callbacks.EarlyStopping("train/accuracy", mode="max", patience=0, min_delta=2.0)

    expected, _ = learn(stream, None, early())
    # Patience ends with the second epoch, and the time with its last batch.
    moment = STEPS + 2 * BATCHES - 1
    with pytest.warns(UserWarning, match="1 of 2"):
        learn(stream, tmp_path, early(), At(moment, run_out), pl.callbacks.Timer("00:01:00:00"))
    again = At()
    module, _ = learn(stream, tmp_path, early(), again, resume=True)
    assert len(again.stages) == STEPS + 2 * BATCHES
    assert equal(module.state_dict(), expected.state_dict())


def test_min_epochs_come_first(stream):
    watch = At(STEPS, run_out)
    with pytest.warns(UserWarning, match="0 of 2"):
        learn(stream, None, watch, pl.callbacks.Timer("00:01:00:00"), min_epochs=2)
    assert len(watch.stages) == STEPS + 2 * BATCHES
    watch = At(0, run_out)
    with pytest.warns(UserWarning, match="0 of 2"):
        learn(stream, None, watch, pl.callbacks.Timer("00:01:00:00"), min_epochs=2)
    assert len(watch.stages) == 1, "a phase has no epochs to do"

"""Strategies under a Trainer, against Avalanche's own loop and against themselves."""

from __future__ import annotations

import importlib
import inspect
import math
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import avalanche.evaluation.metrics
import forked
import killed_strategies
import pairs
import pytest
import strategy_cases as cases
import torch
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.core import SupervisedPlugin
from avalanche.evaluation import PluginMetric
from avalanche.training import plugins as avalanche_plugins
from avalanche.training.plugins import EvaluationPlugin, LRSchedulerPlugin, ReplayPlugin
from avalanche.training.supervised import ER_ACE, AETraining, Cumulative, JointTraining, Naive
from torch import nn
from two_processes_strategies import ONE, train

from avalanche_dgm.errors import CheckpointError, ConfigError
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.strategies import run_on_trainer
from avalanche_dgm.plugins.checkpoints import save_checkpoint

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def benchmark():
    return cases.digits()


@pytest.fixture(scope="module")
def few():
    """Four batches an experience, the last of which is smaller."""
    return cases.digits(n_train_per_class=60)


@pytest.fixture(scope="module")
def task_benchmark():
    return cases.digits(task_labels=True, n_train_per_class=60)


def run(strategy, benchmark, *, n=3, trainer=QUIET, **options):
    return run_on_trainer(
        strategy,
        cases.stream(benchmark, n),
        test_stream=cases.tested(benchmark, n),
        trainer=trainer if isinstance(trainer, pl.Trainer) else dict(trainer),
        **options,
    )


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def check_equal(first, second, results, expected):
    """Weights and metrics of two runs are equal, the machine's measurements are there."""
    assert same(cases.weights(first.model), cases.weights(second.model))
    for mine, theirs in zip(results, expected, strict=True):
        assert mine.keys() == theirs.keys()
        # As text, which tells zeros apart and takes what is not a number for equal.
        assert repr(cases.values(mine)) == repr(cases.values(theirs))


def check_like_avalanche(benchmark, *what, n=3, reading=None, **options):
    """Trains twice from the same seed; returns the strategy under the Trainer and its results."""
    reading = reading or {}
    ours = cases.build(*what, **options)
    results = run(ours, benchmark, n=n, **reading)
    after = torch.rand(4)
    theirs = cases.build(*what, **options)
    expected = cases.by_avalanche(theirs, benchmark, n=n, **reading)
    check_equal(ours, theirs, results, expected)
    assert ours.clock.train_iterations == theirs.clock.train_iterations
    # Random numbers go on alike, too.
    assert torch.equal(after, torch.rand(4))
    return ours, results


# One process: Avalanche's loop, bit by bit


@pytest.mark.parametrize(
    ("plugins", "shuffle"),
    [
        *((name, True) for name in ("naive", "replay", "ewc", "lwf", "si", "dgdmn", "dgr")),
        *((name, False) for name in ("naive", "dgr")),
    ],
)
def test_weights_and_metrics_are_those_of_avalanche(plugins, shuffle, few):
    ours, _ = check_like_avalanche(few, plugins, reading={"shuffle": shuffle})
    # What would be found if they did not agree.
    other = cases.build(plugins, seed=1)
    run(other, few, n=1, shuffle=shuffle)
    assert not same(cases.weights(other.model), cases.weights(ours.model))


@pytest.mark.parametrize(
    ("plugins", "network"),
    [
        *((p, cases.dropout) for p in ("naive", "dgr", "dgdmn", "both", "gem", "agem", "dynamic")),
        *((p, cases.Growing) for p in ("replay", "ewc-online", "lwf", "dgdmn", "mas", "latent")),
        *((p, cases.normed) for p in ("naive", "si", "dgdmn-no-stm", "latent-alternating")),
        *((p, cases.mlp) for p in ("gdumb", "scratch", "cwr", "schedule", "pseudo")),
        ("dynamic-discriminator", cases.Growing),
        ("lfl", cases.simple),
    ],
)
def test_other_plugins_and_networks(plugins, network, few):
    check_like_avalanche(few, plugins, network)


@pytest.mark.parametrize("plugins", ["naive", "replay", "lwf", "dgdmn", "dgr"])
def test_task_labels(plugins, task_benchmark):
    check_like_avalanche(task_benchmark, plugins, cases.MultiHead)


@pytest.mark.parametrize("plugins", ["replay", "dgdmn"])
def test_every_metric(plugins, few):
    _, results = check_like_avalanche(
        few,
        plugins,
        cases.dropout,
        metrics=cases.supervised_metrics,
        eval_every=0,
        n=2,
        reading={"eval_streams": [cases.tested(few, 2)]},
    )
    measured = [name for name in results[-1] if cases.MACHINE.search(name)]
    assert len(measured) > 20
    assert len(cases.values(results[-1])) > 50


def test_online_streams(benchmark):
    """Experiences of 64 samples; the plugins know where their tasks begin."""
    split = split_online_stream(
        benchmark.train_stream[:2], experience_size=64, access_task_boundaries=True
    )
    online = list(split)
    ours = cases.build("both", cases.Growing, train_epochs=1)
    results = run_on_trainer(ours, online, trainer=QUIET)
    theirs = cases.build("both", cases.Growing, train_epochs=1)
    expected = [dict(theirs.train(experience)) for experience in online]
    check_equal(ours, theirs, results, expected)
    assert len(results) == 10


def test_no_metric_of_avalanche_is_left_out():
    package = avalanche.evaluation.metrics
    kinds = set()
    for info in pkgutil.iter_modules(package.__path__):
        if not info.ispkg:
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            kinds |= {
                kind
                for kind in vars(module).values()
                if inspect.isclass(kind) and issubclass(kind, PluginMetric)
            }
    tried = set()
    for metric in EvaluationPlugin(*cases.supervised_metrics(), loggers=[]).metrics:
        tried |= set(type(metric).__mro__)
    left = {kind.__name__ for kind in kinds - tried}
    # Boxes, a logger's account, and a base without a name that Avalanche itself does not use.
    assert left == {
        "DetectionMetrics",
        "WandBStreamConfusionMatrix",
        "LossPerTaskPluginMetric",
    }


@pytest.mark.parametrize(
    ("plugins", "options"),
    [
        ("naive", {"eval_every": 1}),
        ("naive", {"eval_every": 3, "peval_mode": "iteration"}),
        ("stopping", {"eval_every": 1, "train_epochs": 6}),
    ],
)
def test_evaluation_in_training(plugins, options, few):
    check_like_avalanche(few, plugins, cases.dropout, **options)


class Stop(SupervisedPlugin):
    """Stops the training in a hook of the second epoch."""

    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self.stop)

    def stop(self, strategy, *args, **kwargs):
        clock = strategy.clock
        if clock.train_exp_epochs == 1 and clock.train_epoch_iterations >= 4:
            strategy.stop_training()


@pytest.mark.parametrize(
    "hook", ["before_training_epoch", "before_forward", "after_training_iteration"]
)
def test_a_plugin_stops_the_training(hook, benchmark):
    ours, _ = check_like_avalanche(benchmark, more=[Stop(hook)], train_epochs=3)
    assert 28 <= ours.clock.train_iterations < 2 * 28


WITH_GRADIENTS = (
    *("before_forward", "after_forward", "before_backward", "after_backward"),
    *("before_update", "after_update", "after_training_iteration", "after_training_exp"),
)


def test_hooks_come_in_the_same_order(benchmark):
    calls = {}

    class Listener(SupervisedPlugin):
        def __init__(self, name):
            super().__init__()
            self.heard = calls.setdefault(name, [])

        def __getattribute__(self, name):
            if not name.startswith(("before_", "after_")):
                return super().__getattribute__(name)
            return lambda strategy, **kwargs: self.heard.append(
                (
                    name,
                    strategy.is_training,
                    strategy.model.training,
                    torch.is_grad_enabled(),
                    float(strategy.loss.detach().sum()),
                    # A Trainer drops the gradients of an experience before a test.
                    name in WITH_GRADIENTS
                    and [p.grad is not None for p in strategy.model.parameters()],
                    strategy.mbatch is not None and len(strategy.mbatch[0]),
                    sorted(kwargs),
                )
            )

    options = {"train_epochs": 2, "eval_every": 1}
    run(cases.build(more=[Listener("ours")], **options), benchmark, n=2, num_workers=0)
    theirs = cases.build(more=[Listener("theirs")], **options)
    for experience in cases.stream(benchmark, 2):
        theirs.train(experience, num_workers=0)
        theirs.eval(cases.tested(benchmark, 2), num_workers=0)
    assert calls["ours"] == calls["theirs"]
    assert len(calls["ours"]) > 500


def test_the_strategy_goes_on_afterwards(benchmark, tmp_path):
    ours = cases.build("both", cases.dropout)
    before = set(vars(ours))
    tested = cases.tested(benchmark, 3)
    run_on_trainer(ours, cases.stream(benchmark, 2), test_stream=tested, trainer=dict(QUIET))
    assert set(vars(ours)) == before
    assert (ours.train_mb_size, ours.eval_mb_size, ours.train_epochs) == (32, 50, 2)
    save_checkpoint(ours, tmp_path / "after.ckpt")
    ours.train(benchmark.train_stream[2])
    results = ours.eval(tested)
    theirs = cases.build("both", cases.dropout)
    check_equal(ours, theirs, [results], cases.by_avalanche(theirs, benchmark)[-1:])


def test_a_whole_benchmark(benchmark):
    strategy = cases.build(train_epochs=4)
    results = run_on_trainer(strategy, benchmark, trainer=QUIET)
    assert len(results) == 5
    assert "Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp004" in results[0]
    last = results[-1]["Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp004"]
    first = results[0]["Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp004"]
    assert last > 0.3 > 0.1 > first


def test_mere_experiences_are_trained_and_not_tested(benchmark):
    results = run_on_trainer(cases.build(), benchmark.train_stream[0], trainer=QUIET)
    assert len(results) == 1
    assert all("train_phase" in name for name in results[0])


# What the Trainer adds


def test_accumulation_is_a_larger_batch(benchmark):
    """288 = 9 x 32 samples: two halves make the same step as one whole."""
    whole = cases.build(train_mb_size=32)
    run(whole, benchmark, n=2, shuffle=False)
    halves = cases.build(train_mb_size=16)
    trainer = pl.Trainer(
        **QUIET, accumulate_grad_batches=2, logger=False, enable_checkpointing=False
    )
    run(halves, benchmark, n=2, shuffle=False, trainer=trainer)
    assert trainer.global_step == 2 * 2 * 9
    plain = cases.build(train_mb_size=16)
    run(plain, benchmark, n=2, shuffle=False)
    distance = {}
    for name, strategy in (("halves", halves), ("plain", plain)):
        pairs = zip(whole.model.parameters(), strategy.model.parameters(), strict=True)
        distance[name] = max(float((a - b).detach().abs().max()) for a, b in pairs)
    assert distance["halves"] < 1e-5 < 1e-2 < distance["plain"]


def test_gradients_are_clipped(benchmark):
    strategy = cases.build(optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    before = cases.weights(strategy.model)
    run(strategy, benchmark, n=1, trainer={**QUIET, "gradient_clip_val": 1e-4})
    after = cases.weights(strategy.model)
    moved = math.sqrt(sum(float((after[k] - before[k]).square().sum()) for k in before))
    # 18 steps, each of at most 1e-4.
    assert 0 < moved <= 18e-4 * 1.01


@pytest.mark.parametrize("plugins", ["both", "dgdmn"])
def test_sixteen_bits(plugins, benchmark):
    half, full = cases.build(plugins), cases.build(plugins)
    result = run(half, benchmark, n=1, trainer={**QUIET, "precision": "bf16-mixed"})
    run(full, benchmark, n=1)
    ours, theirs = cases.weights(half.model), cases.weights(full.model)
    assert all(value.dtype == torch.float32 for value in ours.values())
    assert not same(ours, theirs)
    assert result[0]["Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp000"] > 0.9


def test_callbacks_begin_anew_in_each_experience(benchmark):
    stopping = pl.callbacks.EarlyStopping("train/loss", patience=1, min_delta=10.0)
    strategy = cases.build(train_epochs=5)
    run(strategy, benchmark, callbacks=[stopping])
    # One epoch sets the mark, the next is no better by 10: two epochs in each experience.
    assert strategy.clock.train_iterations == 2 * (9 + 9 + 10)


def test_loggers_of_both(benchmark, tmp_path):
    logger, recording = pl.loggers.CSVLogger(tmp_path), cases.Recording()
    trainer = {**QUIET, "logger": logger, "log_every_n_steps": 4}
    results = run(cases.build(loggers=[recording]), benchmark, n=2, trainer=trainer)
    logger.save()
    lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    name = "Top1_Acc_Stream/eval_phase/test_stream/Task000"
    header = lines[0].split(",")
    logged = [line.split(",")[header.index(name)] for line in lines[1:]]
    assert [float(v) for v in logged if v] == pytest.approx([r[name] for r in results])
    steps = [int(line.split(",")[header.index("step")]) for line in lines[1:]]
    assert steps == sorted(steps)
    assert steps[-1] == 2 * 2 * 9
    assert {"train/loss", "train/loss_step"} <= set(header)
    assert recording.told > 50


# Refusals, all of them before any training


def several(strategy, benchmark, **options):
    """Asks for two devices, which are never started."""
    before = cases.weights(strategy.model)
    try:
        run(strategy, benchmark, trainer={**QUIET, "devices": 2, "strategy": "ddp"}, **options)
    finally:
        assert same(before, cases.weights(strategy.model))


class MyReplay(ReplayPlugin):
    """Could do anything."""


REFUSED = {
    "BiCPlugin": {},
    "CoPEPlugin": {},
    "FeatureDistillationPlugin": {},
    "GSS_greedyPlugin": {"mem_strength": 5, "input_size": [1, 8, 8]},
    "GenerativeReplayPlugin": {},
    "MIRPlugin": {"batch_size_mem": 5},
    "RARPlugin": {"batch_size_mem": 5},
    "RWalkPlugin": {},
}


@pytest.mark.parametrize("name", [*REFUSED, "MyReplay"])
def test_plugins_that_may_be_wrong_on_several_devices(name, benchmark):
    kind = MyReplay if name == "MyReplay" else getattr(avalanche_plugins, name)
    plugin = kind(**REFUSED.get(name, {}))
    with pytest.raises(ConfigError, match=rf"{name} is not known.*allow=\[{name}\]"):
        several(cases.build(more=[plugin]), benchmark)


def test_other_things_that_would_be_wrong_on_several_devices(benchmark):
    schedule = cases.build()
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(schedule.optimizer)
    schedule.plugins.insert(0, LRSchedulerPlugin(plateau, metric="train_loss"))
    with pytest.raises(ConfigError, match="different loss in each"):
        several(schedule, benchmark)
    with pytest.raises(ConfigError, match="reduction='sum'"):
        several(cases.build(criterion=nn.CrossEntropyLoss(reduction="sum")), benchmark)
    with pytest.raises(ConfigError, match=r"AETraining overrides criterion.*allow=\[AETraining\]"):
        several(cases.build(template=AETraining, device="cpu"), benchmark)


@pytest.mark.parametrize("template", [ER_ACE, JointTraining])
def test_strategies_with_loops_of_their_own(template, benchmark):
    with pytest.raises(ConfigError, match=rf"{template.__name__} overrides Avalanche's loop"):
        run(cases.build(template=template), benchmark)


def test_what_a_trainer_cannot_run(benchmark, tmp_path):
    with pytest.raises(ConfigError, match="Tensor is not an .*SupervisedTemplate"):
        run(torch.zeros(1), benchmark)
    with pytest.raises(ConfigError, match="bf16-true"):
        run(cases.build(), benchmark, trainer={**QUIET, "precision": "bf16-true"})
    with pytest.raises(ConfigError, match="AGEMPlugin clears the gradients"):
        run(cases.build("agem"), benchmark, trainer={**QUIET, "accumulate_grad_batches": 2})
    with pytest.raises(ConfigError, match="stream is empty"):
        run_on_trainer(cases.build(), [], trainer=QUIET)
    with pytest.raises(ConfigError, match="needs checkpoint_dir"):
        run(cases.build(), benchmark, resume=True)


def test_a_loader_without_length(benchmark):
    class Endless(Naive):
        def make_train_dataloader(self, **options):
            super().make_train_dataloader(**options)
            self.dataloader = iter(self.dataloader)

    with pytest.raises(ConfigError, match="has no length"):
        run(cases.build(template=Endless), benchmark)


@pytest.mark.parametrize(
    ("options", "reading"),
    [({"train_epochs": 0}, {}), ({"train_mb_size": 999}, {"drop_last": True})],
)
def test_nothing_to_train_on(options, reading, benchmark):
    ours, _ = check_like_avalanche(benchmark, n=1, reading=reading, **options)
    assert ours.clock.train_iterations == 0


# Checkpoints


def test_folders_of_other_runs(benchmark, tmp_path):
    first = run(cases.build(), benchmark, n=2, checkpoint_dir=tmp_path)
    with pytest.raises(ConfigError, match="earlier run"):
        run(cases.build(), benchmark, n=2, checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match="experiences: 2 in the checkpoint, 3 now"):
        run(cases.build(), benchmark, n=3, checkpoint_dir=tmp_path, resume=True)
    other = cases.build(template=Cumulative)
    with pytest.raises(CheckpointError, match="Cumulative"):
        run(other, benchmark, n=2, checkpoint_dir=tmp_path, resume=True)
    # A run that is complete gives what it gave.
    strategy = cases.build(seed=9)
    again = run(strategy, benchmark, n=2, checkpoint_dir=tmp_path, resume=True)
    assert [cases.values(r) for r in again] == [cases.values(r) for r in first]
    assert strategy.clock.train_exp_counter == 2


def test_steps_go_on_where_they_were(benchmark, tmp_path):
    options = {"n": 3, "checkpoint_dir": tmp_path}
    with pytest.raises(InterruptedError):
        run(cases.build(more=[cases.Failing()]), benchmark, **options)
    cases.Failing.active = False
    try:
        strategy = cases.build(more=[cases.Failing()])
        trainer = pl.Trainer(**QUIET, logger=False, enable_checkpointing=False)
        run(strategy, benchmark, trainer=trainer, resume=True, **options)
    finally:
        cases.Failing.active = True
    assert trainer.global_step == strategy.clock.train_iterations == 2 * (9 + 9 + 10)


@pytest.mark.slow
def test_killed_runs_go_on(tmp_path):
    done = forked.run(killed_strategies.__file__, tmp_path, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    ends = torch.load(tmp_path / "ends.pt")
    whole = torch.load(tmp_path / "never.pt", weights_only=False)
    assert ends.pop("never") == 0
    assert len(whole["results"]) == 3
    for moment in killed_strategies.MOMENTS:
        assert (ends[moment], ends[f"{moment}, resumed"]) == (-9, 0)
        resumed = torch.load(tmp_path / f"{moment}.pt", weights_only=False)
        assert same(resumed["weights"], whole["weights"])
        assert resumed["results"] == whole["results"]


# Two processes


def found_by_both(folder):
    return [torch.load(folder / f"rank{r}.pt", weights_only=False) for r in (0, 1)]


@pytest.fixture(scope="module")
def ranks(two):
    """What two processes found."""
    return found_by_both(two)


@pytest.fixture(scope="module")
def more_ranks(more):
    return found_by_both(more)


def close(one, other):
    """Numbers that differ by rounding only, in any structure of lists and dictionaries."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-5)
    return one == other


def agree(first, second):
    assert same(first["weights"], second["weights"])
    assert repr(first["results"]) == repr(second["results"])
    assert first["names"] == second["names"]


def check_like_one(name, found, like=None):
    alone, ours = train(like or name, ONE), found[0][name]
    agree(*(rank[name] for rank in found))
    assert ours["iterations"] == alone["iterations"]
    assert ours["names"] == alone["names"]
    for mine, theirs in zip(ours["results"], alone["results"], strict=True):
        assert not [k for k in mine if not close(mine[k], theirs[k])]
    assert distance(ours, alone) < 1e-5


def distance(one, other):
    pairs = ((one["weights"][k].double(), w.double()) for k, w in other["weights"].items())
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("name", pairs.EQUAL_STRATEGIES)
def test_two_processes_learn_what_one_does(name, ranks):
    check_like_one(name, ranks)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*pairs.MORE_EQUAL_STRATEGIES, "resumed"])
def test_more_that_two_processes_learn_as_one_does(name, more_ranks):
    check_like_one(name, more_ranks, like="replay" if name == "resumed" else None)


@pytest.mark.parametrize("name", ["dgdmn", "unseeded", "expected"])
def test_two_processes_agree(name, ranks):
    agree(*(rank[name] for rank in ranks))


@pytest.mark.slow
@pytest.mark.parametrize("name", pairs.RANDOM_STRATEGIES)
def test_two_processes_agree_on_what_is_random(name, more_ranks):
    agree(*(rank[name] for rank in more_ranks))
    assert all(torch.isfinite(w).all() for w in more_ranks[0][name]["weights"].values())


@pytest.mark.slow
def test_two_processes_remember(more_ranks):
    """On three experiences of two digits, where a net that forgets ends at a third."""
    average = {}
    for name in ("learned", "schedule"):
        last = more_ranks[0][name]["results"][-1]
        found = [last[f"Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp00{i}"] for i in range(3)]
        average[name] = sum(found) / 3
    assert average["learned"] > 0.5 > 0.36 > average["schedule"]


STARTED = """
import sys, torch
from two_processes_strategies import ONE, train
if __name__ == "__main__":
    way, path = sys.argv[1:]
    trainer = {**ONE, "devices": 2, "strategy": way}
    torch.save(train("replay", trainer), path)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp_fork", "ddp_spawn"])
def test_processes_that_are_started_otherwise(way, tmp_path):
    """The strategy of the process that asked is trained, too."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    (tmp_path / "main.py").write_text(STARTED)
    command = [sys.executable, "-W", "ignore", tmp_path / "main.py", way, tmp_path / "found.pt"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=200)
    found = torch.load(tmp_path / "found.pt", weights_only=False)
    alone = train("replay", ONE)
    assert distance(found, alone) < 1e-5
    assert found["iterations"] == alone["iterations"]
    assert close(found["results"], alone["results"])


@pytest.mark.slow
def test_loggers_are_the_first_processs(more_ranks):
    assert [rank["halves"]["loggers"] for rank in more_ranks] == [1, 0]


def test_errors_in_two_processes(ranks):
    for rank in ranks:
        assert "(spare.weight, spare.bias)" in rank["unused"]["error"]
        assert rank["unused"]["untouched"]
        assert "read different batches" in rank["different data"]["error"]
        assert "states differ after experience 1" in rank["noise"]["error"]
        assert not rank["noise, unchecked"]["error"]


def test_what_is_refused_would_be_wrong(ranks):
    for rank in ranks:
        assert "RWalkPlugin is not known" in rank["refused"]["error"]
    alone = train("rwalk@ordered", ONE, n_train_per_class=None)
    assert distance(ranks[0]["refused"], alone) > 1e-2

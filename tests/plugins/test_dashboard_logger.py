"""The logger that shows panels, in Avalanche."""

import pickle
import warnings

import pytest
import torch
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from recording import Failing, Recording

from avalanche_dgm import (
    DashboardLogger,
    DGDMNPlugin,
    DGRPlugin,
    maybe_load_checkpoint,
    save_checkpoint,
)
from avalanche_dgm.dashboards.file_sink import FileSink
from avalanche_dgm.errors import ConfigError

from .conftest import DUAL, SMALL, mlp, naive, weights


def strategy_with(logger, *plugins, **options):
    metrics = accuracy_metrics(experience=True, stream=True)
    evaluator = EvaluationPlugin(*metrics, loggers=[logger])
    torch.manual_seed(0)
    return naive(mlp(), *plugins, evaluator=evaluator, **options)


def test_the_matrix_is_avalanches(benchmark):
    sink = Recording()
    strategy = strategy_with(DashboardLogger([sink]))
    for n, experience in enumerate(benchmark.train_stream[:3], 1):
        strategy.train(experience)
        found = strategy.eval(benchmark.test_stream)
        for j in range(5):
            name = f"Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp{j:03d}"
            assert sink.values(f"accuracy/experience_{j:03d}")[n] == pytest.approx(found[name])
    tables = [panel for panel in sink.shown if panel[3] == "accuracy/table"]
    assert [panel[5][0][0] for panel in tables] == ["0/1", "2/3", "4/5"]
    assert tables[0][4] == ["after", "0/1", "2/3", "4/5", "6/7", "8/9"]
    # Epoch by epoch, over the classifier's updates.
    assert list(sink.values("train/loss")) == [
        strategy.clock.train_iterations * n // 3 for n in (1, 2, 3)
    ]


def test_evaluation_in_training_and_of_other_streams_is_left_out(benchmark):
    sink = Recording()
    strategy = strategy_with(DashboardLogger([sink]), eval_every=1)
    strategy.train(benchmark.train_stream[0], eval_streams=[benchmark.test_stream])
    strategy.eval(benchmark.train_stream)
    assert not [panel for panel in sink.shown if panel[3].startswith("accuracy/")]
    strategy.eval(benchmark.test_stream[:2])
    strategy.train(benchmark.train_stream[1])
    strategy.eval(benchmark.test_stream)
    assert set(sink.values("accuracy/experience_001")) == {1, 2}
    assert set(sink.values("accuracy/experience_004")) == {2}


def test_several_experiences_in_one_call(benchmark):
    sink = Recording()
    strategy = strategy_with(DashboardLogger([sink]), DGRPlugin(**SMALL, seed=0))
    strategy.train(benchmark.train_stream[:3])
    strategy.eval(benchmark.test_stream)
    assert list(sink.values("memory/bytes")) == [1, 2, 3]
    assert all(seconds > 0 for seconds in sink.values("time/learn").values())
    assert list(sink.values("stream/average_accuracy")) == [3]
    # What was not tested is not known.
    assert "stream/backward_transfer" not in sink.names()


def test_parts_of_an_online_stream_are_one_experience(benchmark):
    sink = Recording()
    plugin = DGRPlugin(**SMALL, seed=0)
    strategy = strategy_with(DashboardLogger([sink]), plugin)
    for experience in benchmark.train_stream[:2]:
        parts = split_online_stream([experience], experience_size=100, access_task_boundaries=True)
        for part in parts:
            strategy.train(part, eval_streams=[])
        strategy.eval(benchmark.test_stream)
    assert list(sink.values("memory/bytes")) == [1, 2]
    assert set(sink.values("stream/average_accuracy")) == {1, 2}


def test_a_checkpoint_continues_the_panels(benchmark, tmp_path):
    def strategy(folder):
        logger = DashboardLogger([FileSink(folder)])
        return strategy_with(logger, DGDMNPlugin(**DUAL, seed=0))

    def learn(strategy, which):
        for experience in benchmark.train_stream[which]:
            strategy.train(experience)
            strategy.eval(benchmark.test_stream)

    whole = strategy(tmp_path / "whole")
    learn(whole, slice(0, 3))
    parts = strategy(tmp_path / "parts")
    learn(parts, slice(0, 2))
    save_checkpoint(parts, tmp_path / "strategy.pt")
    # What came after the checkpoint is replaced by what comes again.
    learn(parts, slice(2, 3))
    fresh = strategy(tmp_path / "elsewhere")
    fresh, n = maybe_load_checkpoint(fresh, tmp_path / "strategy.pt")
    assert n == 2
    learn(fresh, slice(2, 3))
    assert torch.equal(weights(fresh.model), weights(whole.model))
    texts = []
    for name in ("whole", "parts"):
        lines = (tmp_path / name / "scalars.csv").read_text().splitlines()
        timed = ("time/", "sleeps/seconds")
        texts.append([line for line in lines if not line.split(",")[2].startswith(timed)])
    assert sorted(texts[0]) == sorted(texts[1])


def test_a_place_that_fails_changes_nothing(benchmark):
    found = []
    for logger in (DashboardLogger([Failing()]), DashboardLogger([])):
        strategy = strategy_with(logger, DGRPlugin(**SMALL, seed=0))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            strategy.train(benchmark.train_stream[:2])
            strategy.eval(benchmark.test_stream)
            logger.close()
        found.append(weights(strategy.model))
        said = [str(w.message) for w in caught if "could not log" in str(w.message)]
        if len(found) == 1:
            assert len(said) == len(set(said)) >= 5
    assert torch.equal(*found)


def test_options():
    with pytest.raises(ConfigError, match="samples_per_class"):
        DashboardLogger([], samples_per_class=-1)


def test_a_logger_can_be_pickled(benchmark):
    logger = DashboardLogger([FileSink("nowhere")])
    strategy = strategy_with(DashboardLogger([Recording()]))
    strategy.train(benchmark.train_stream[0])
    assert pickle.loads(pickle.dumps(logger))._sinks[0].folder.name == "nowhere"

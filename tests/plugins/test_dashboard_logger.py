"""The logger that shows panels, in Avalanche."""

import csv
import pickle
import warnings

import pytest
import torch
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin
from recording import Failing, Recording
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avalanche_dgm import (
    DashboardLogger,
    DGDMNPlugin,
    DGRPlugin,
    maybe_load_checkpoint,
    save_checkpoint,
    sklearn_digits,
)
from avalanche_dgm.dashboards.file_sink import FileSink
from avalanche_dgm.dashboards.tensorboard_sink import TensorBoardSink
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


def test_only_what_was_learned_is_tested(benchmark):
    sink = Recording()
    strategy = strategy_with(DashboardLogger([sink]), DGRPlugin(**SMALL, seed=0))
    for n in (1, 2, 3):
        strategy.train(benchmark.train_stream[n - 1])
        strategy.eval(benchmark.test_stream[:n])
    tables = [panel for panel in sink.shown if panel[3] == "accuracy/table"]
    assert all(panel[4] == ["after", "0/1", "2/3", "4/5", "6/7", "8/9"] for panel in tables)
    seen = [[value == value for value in panel[5][0][1:]] for panel in tables]
    assert seen == [[j < n for j in range(5)] for n in (1, 2, 3)]
    # A row of pictures for each class learned, also of those that were tested later on.
    heights = [shape[0] for shape in sink.values("reconstructions/grid").values()]
    assert heights[0] < heights[1] < heights[2]
    assert set(sink.values("stream/forgetting")) == {2, 3}


def test_what_was_learned_but_not_tested_has_no_accuracy(benchmark):
    sink = Recording()
    strategy = strategy_with(DashboardLogger([sink]))
    strategy.train(benchmark.train_stream[0])
    strategy.eval(benchmark.test_stream[1:3])
    assert "stream/average_accuracy" not in sink.names()
    strategy.train(benchmark.train_stream[1])
    found = strategy.eval(benchmark.test_stream[1:3])
    expected = found["Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp001"]
    assert sink.values("stream/average_accuracy") == {2: pytest.approx(expected)}


def test_an_experience_that_comes_again(benchmark):
    sink = Recording()
    strategy = strategy_with(DashboardLogger([sink]))
    for i in (0, 1, 0):
        strategy.train(benchmark.train_stream[i])
        found = strategy.eval(benchmark.test_stream)
    names = [f"Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp{j:03d}" for j in (0, 1)]
    average = sum(found[name] for name in names) / 2
    assert sink.values("stream/average_accuracy")[3] == pytest.approx(average)
    # The first counts from when it came again.
    assert set(sink.values("stream/forgetting")) == {2, 3}
    tables = [panel for panel in sink.shown if panel[3] == "accuracy/table"]
    assert [panel[5][0][0] for panel in tables] == ["0/1", "2/3", "0/1"]


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


@pytest.mark.parametrize("boundaries", [True, False])
def test_parts_of_an_online_stream_are_one_experience(boundaries, benchmark):
    sink = Recording()
    plugins = [DGRPlugin(**SMALL, seed=0)] if boundaries else []
    strategy = strategy_with(DashboardLogger([sink]), *plugins, epochs=2)
    n_samples = []
    for experience in benchmark.train_stream[:2]:
        parts = split_online_stream(
            [experience], experience_size=100, access_task_boundaries=boundaries
        )
        for part in parts:
            strategy.train(part, eval_streams=[])
        strategy.eval(benchmark.test_stream)
        n_samples.append(len(experience.dataset))
    # Time and samples of all parts.
    speeds, seconds = sink.values("time/samples_per_second"), sink.values("time/learn")
    assert [round(speeds[n] * seconds[n]) for n in (1, 2)] == [2 * n for n in n_samples]
    if not boundaries:
        assert "memory/bytes" not in sink.names()
        return
    assert list(sink.values("memory/bytes")) == [1, 2]
    assert set(sink.values("stream/average_accuracy")) == {1, 2}


class Darker:
    """Makes images darker at random."""

    def __call__(self, image):
        return image * torch.rand(())


def test_augmentations_go_on_as_without_it():
    found = []
    for loggers in ([], [DashboardLogger([Recording()])]):
        benchmark = sklearn_digits(n_experiences=5, seed=0, fraction=0.3)
        torch.manual_seed(0)
        evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=loggers)
        strategy = naive(mlp(), evaluator=evaluator)
        for experience in benchmark.train_stream[:2]:
            group = (Darker(), None)
            experience._dataset = experience.dataset.replace_current_transform_group(group)
            strategy.train(experience)
        found.append([torch.rand(()), weights(strategy.model)])
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


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


def test_a_used_logger_can_be_pickled(benchmark, tmp_path):
    logger = DashboardLogger([FileSink(tmp_path / "panels")])
    strategy = strategy_with(logger, DGRPlugin(**SMALL, seed=0))
    strategy.train(benchmark.train_stream[0])
    strategy.eval(benchmark.test_stream)
    again = pickle.loads(pickle.dumps(logger))
    again.dashboard.log_training({"train/loss": 0.5}, step=100)
    assert "step,100,train/loss,0.5" in (tmp_path / "panels" / "scalars.csv").read_text()


def test_settings_are_logged_once_at_the_start(benchmark, tmp_path):
    folder = tmp_path / "tensorboard"
    logger = DashboardLogger([FileSink(tmp_path / "panels"), TensorBoardSink(folder)])
    strategy = strategy_with(logger, DGDMNPlugin(**DUAL, stm_size=2, seed=3))
    strategy.train(benchmark.train_stream[0])
    strategy.train(benchmark.train_stream[1])
    logger.close()
    with (tmp_path / "panels" / "tables" / "settings.csv").open() as file:
        rows = {row["setting"]: row["value"] for row in csv.DictReader(file)}
    assert rows["method/class"] == "DGDMN"
    assert rows["method/stm_size"] == "2"
    assert rows["method/seed"] == "3"
    assert rows["method/routing"] == "auto"
    read = EventAccumulator(str(folder))
    read.Reload()
    (written,) = read.Tensors("settings/text_summary")
    lines = written.tensor_proto.string_val[0].decode().splitlines()
    assert lines[2:] == [f"| {name} | {value} |" for name, value in rows.items()]


def test_latents_come_after_the_last_experience(benchmark):
    sink = Recording()
    strategy = strategy_with(DashboardLogger([sink]), DGRPlugin(**SMALL, seed=0))
    for experience in benchmark.train_stream:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)
    assert list(sink.values("latents/tsne")) == [5]

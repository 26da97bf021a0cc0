"""Summaries of the accuracy matrix in Avalanche, beside Avalanche's own."""

import math
import pickle
import random
from types import SimpleNamespace

import pytest
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.evaluation.metrics import (
    accuracy_metrics,
    bwt_metrics,
    forgetting_metrics,
    forward_transfer_metrics,
)
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn

from avalanche_dgm import DGRPlugin, continual_metrics, retention_metrics, sklearn_digits
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import NaiveModule, fit_stream
from avalanche_dgm.metrics import StreamAccuracies
from avalanche_dgm.plugins.checkpoints import maybe_load_checkpoint, save_checkpoint
from avalanche_dgm.plugins.continual_metrics import REPORTED

pytestmark = pytest.mark.filterwarnings("ignore:No loggers")
WHERE = "/eval_phase/test_stream"
NAN = math.nan


@pytest.fixture(scope="module")
def benchmark():
    return sklearn_digits(n_experiences=5, seed=0, fraction=0.3)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))


def strategy(*metrics, **kwargs):
    net = network()
    return Naive(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.02),
        train_mb_size=32,
        train_epochs=3,
        evaluator=EvaluationPlugin(*metrics, loggers=[]),
        **kwargs,
    )


def mine(metrics):
    """What was reported, by names without the stream's."""
    reported = {k.removesuffix(WHERE): v for k, v in metrics.items()}
    return {k: v for k, v in reported.items() if k.endswith("_M") or "Retention" in k}


def accuracies(metrics, n=5):
    return [metrics[f"Top1_Acc_Exp{WHERE}/Task000/Exp{j:03d}"] for j in range(n)]


def summaries(rows, baseline=0.0, order=None):
    """The summaries after the last row, by the names that they are reported as."""
    found = StreamAccuracies(rows, order).summaries(baseline=baseline)
    return {REPORTED[name]: value for name, value in found.items()}


class World:
    """Streams of experiences that are no more than their places, and what a metric sees of them."""

    def __init__(self, metric, n_train, n_test, *, classes=None, tested=None):
        self.metric = metric
        self.train = self.stream("train", n_train, classes or [[j] for j in range(n_train)])
        self.test = self.stream("test", n_test, tested or [[j] for j in range(n_test)])

    def stream(self, name, n, classes):
        class Stream(list):
            pass

        stream = Stream()
        stream.name = name
        for j in range(n):
            facts = {"current_experience": j, "classes_in_this_experience": classes[j]}
            dataset = [0] * 3
            stream.append(
                SimpleNamespace(**facts, origin_stream=stream, dataset=dataset, task_labels=[0])
            )
        return stream

    def begin(self, j):
        self.metric.before_training_exp(SimpleNamespace(experience=self.train[j]))

    def end(self, j):
        self.metric.after_training_exp(SimpleNamespace(experience=self.train[j]))

    def learn(self, j):
        self.begin(j)
        self.end(j)

    def evaluate(self, counts, stream=None):
        """Evaluates with right answers out of eight by position; what is reported, by name."""
        stream = self.test if stream is None else stream
        now = SimpleNamespace(
            current_eval_stream=[stream[j] for j in counts],
            clock=SimpleNamespace(train_iterations=3),
        )
        self.metric.before_eval(now)
        for j, right in counts.items():
            now.experience = stream[j]
            now.mb_y = torch.zeros(8, dtype=torch.int64)
            now.mb_output = nn.functional.one_hot((torch.arange(8) >= right).long(), 2).float()
            self.metric.after_eval_iteration(now)
        reported = self.metric.after_eval(now) or []
        return mine({value.name: value.value for value in reported})


def rows_of(rng, height, width, gaps=0.0):
    return [
        {j: rng.randrange(9) for j in range(width) if rng.random() >= gaps} for _ in range(height)
    ]


def dense(rows, width):
    return [[row[j] / 8 if j in row else NAN for j in range(width)] for row in rows]


class TestMatrix:
    """What is reported of it is tested where it is computed, in `metrics.functional`."""

    @pytest.mark.parametrize("gaps", [0.0, 0.3])
    def test_each_evaluation_fills_a_row(self, gaps):
        rng = random.Random(0)
        (metric,) = continual_metrics()
        world, rows = World(metric, 5, 5), rows_of(rng, 5, 5, gaps)
        for i, row in enumerate(rows):
            world.learn(i)
            expected = summaries(dense(rows[: i + 1], 5))
            assert world.evaluate(row) == pytest.approx(expected, abs=1e-6)
            assert metric.result() == pytest.approx(expected, abs=1e-6)

    def test_another_order_of_learning(self):
        rng = random.Random(0)
        order = rng.sample(range(6), 6)
        (metric,) = continual_metrics()
        world, rows = World(metric, 6, 6), rows_of(rng, 6, 6)
        for i, row in enumerate(rows):
            world.learn(order[i])
            found = world.evaluate(row)
        assert found == pytest.approx(summaries(dense(rows, 6), order=order), abs=1e-6)
        assert metric.matrix().tolist() == dense(rows, 6)

    @pytest.mark.parametrize("baseline", [None, 0.25])
    def test_forward_transfer_from_what_was_measured_before(self, baseline):
        rng = random.Random(0)
        (metric,) = continual_metrics(baseline=baseline)
        world, rows = World(metric, 5, 5), rows_of(rng, 5, 5)
        before = {j: rng.randrange(9) for j in range(1, 5)}
        assert world.evaluate(before) == {}
        for i, row in enumerate(rows):
            world.learn(i)
            found = world.evaluate(row)
        start = [NAN, *(before[j] / 8 for j in range(1, 5))] if baseline is None else baseline
        assert found == pytest.approx(summaries(dense(rows, 5), start), abs=1e-6)

    def test_nothing_measured_before_is_no_baseline(self):
        (metric,) = continual_metrics(baseline=None)
        world = World(metric, 2, 2)
        world.learn(0)
        assert "StreamForwardTransfer_M" not in world.evaluate({0: 8, 1: 1})


class TestEvaluations:
    def test_periodic_ones_and_other_streams_do_not_count(self):
        (metric,), (plain,) = continual_metrics(), continual_metrics()
        disturbed, quiet = World(metric, 3, 3), World(plain, 3, 3)
        for i, row in enumerate(({0: 8, 1: 1, 2: 2}, {0: 5, 1: 7, 2: 3})):
            disturbed.begin(i)
            assert disturbed.evaluate({0: 1, 1: 1, 2: 1}) == {}
            disturbed.end(i)
            quiet.learn(i)
            assert disturbed.evaluate({0: 2, 1: 2}, disturbed.train) == {}
            found, expected = disturbed.evaluate(row), quiet.evaluate(row)
            assert found == expected
            assert disturbed.evaluate({0: 0}, disturbed.train) == {}
        assert metric.matrix().isfinite().all()
        assert torch.equal(metric.matrix(), plain.matrix())

    def test_what_is_measured_again_counts(self):
        (metric,) = continual_metrics()
        world = World(metric, 2, 2)
        world.learn(0)
        world.evaluate({0: 2, 1: 0})
        world.evaluate({0: 6})
        world.learn(1)
        world.evaluate({1: 8})
        found = world.evaluate({0: 4})
        assert metric.matrix().tolist() == [[0.75, 0.0], [0.5, 1.0]]
        assert found == pytest.approx(summaries([[0.75, 0.0], [0.5, 1.0]]))

    def test_experiences_that_were_never_tested(self):
        (metric,) = continual_metrics()
        world = World(metric, 3, 3)
        world.learn(0)
        world.learn(1)
        found = world.evaluate({0: 4, 1: 8, 2: 2})
        rows = [[NAN] * 3, [0.5, 1.0, 0.25]]
        assert found == pytest.approx(summaries(rows))
        assert set(found) == {
            "StreamAverageAccuracy_M",
            "StreamAverageAnytimeAccuracy_M",
            "StreamLearningAccuracy_M",
        }

    def test_another_stream_by_name(self):
        (metric,) = continual_metrics(stream="valid", forgetting=False)
        world = World(metric, 2, 2)
        valid = world.stream("valid", 2, [[0], [1]])
        world.learn(0)
        assert world.evaluate({0: 8, 1: 0}) == {}
        reported = []
        metric.before_eval(SimpleNamespace(current_eval_stream=list(valid)))
        now = SimpleNamespace(
            experience=valid[0],
            mb_y=torch.zeros(1).long(),
            mb_output=torch.tensor([[1.0, 0.0]]),
            clock=SimpleNamespace(train_iterations=0),
        )
        metric.after_eval_iteration(now)
        reported = [value.name for value in metric.after_eval(now)]
        assert "StreamAverageAccuracy_M/eval_phase/valid_stream" in reported

    def test_answers_of_another_kind_are_left_out(self):
        (metric,) = continual_metrics()
        world = World(metric, 1, 1)
        world.learn(0)
        now = SimpleNamespace(current_eval_stream=list(world.test), experience=world.test[0])
        now.mb_y, now.mb_output = torch.zeros(2), (torch.zeros(2), torch.zeros(2))
        metric.before_eval(now)
        metric.after_eval_iteration(now)
        assert metric.after_eval(now) is None


class TestLengths:
    def test_one_test_experience_for_all(self):
        (metric,) = continual_metrics()
        world = World(metric, 3, 1, tested=[[0, 1, 2]])
        for i, right in enumerate((8, 4, 6)):
            world.learn(i)
            found = world.evaluate({0: right})
        # It is one experience, learned three times: nothing is older.
        assert found == {
            "StreamAverageAccuracy_M": 0.75,
            "StreamLearningAccuracy_M": 0.75,
            "StreamAverageAnytimeAccuracy_M": 0.75,
        }

    def test_a_task_that_comes_again_is_tested_once(self):
        (metric,) = continual_metrics()
        world = World(metric, 3, 2, classes=[[1], [0], [1]])
        rows = [{0: 1, 1: 7}, {0: 8, 1: 4}, {0: 2, 1: 6}]
        for i in range(2):
            world.learn(i)
            found = world.evaluate(rows[i])
        # The classes tell which column belongs to which row.
        assert found == pytest.approx(summaries([[7 / 8, 1 / 8], [4 / 8, 1.0]]))
        world.learn(2)
        # The first task counts from when it came again, and the best of the other was 8 of 8.
        found = world.evaluate(rows[2])
        assert found["StreamAverageAccuracy_M"] == 0.5
        assert found["StreamForgetting_M"] == 1 - 2 / 8
        assert found["StreamRetention"] == 2 / 8
        assert found["StreamLearningAccuracy_M"] == (8 + 6) / 16

    def test_an_experience_without_a_test_of_its_own(self):
        (metric,) = continual_metrics()
        world = World(metric, 3, 2, classes=[[0], [7], [1]])
        rows = [{0: 8, 1: 2}, {0: 6, 1: 3}, {0: 4, 1: 7}]
        for i, row in enumerate(rows):
            world.learn(i)
            found = world.evaluate(row)
        columns = [[row[0] / 8, NAN, row[1] / 8] for row in rows]
        assert found == pytest.approx(summaries(columns))

    def test_a_longer_test_stream(self):
        (metric,) = continual_metrics()
        world = World(metric, 2, 4)
        rows = [{0: 8, 1: 4, 2: 0, 3: 2}, {0: 4, 1: 8, 2: 1, 3: 3}]
        for i, row in enumerate(rows):
            world.learn(i)
            found = world.evaluate(row)
        assert found == pytest.approx(summaries(dense(rows, 4)))


@pytest.fixture(scope="module")
def run(benchmark):
    """A run with Avalanche's metrics, and the accuracies after each experience."""
    naive = strategy(
        accuracy_metrics(experience=True, stream=True),
        bwt_metrics(stream=True),
        forgetting_metrics(stream=True),
        forward_transfer_metrics(stream=True),
        continual_metrics(baseline=None),
        eval_every=1,
    )
    rows, values = [], []
    untrained = accuracies(naive.eval(benchmark.test_stream))
    for experience in benchmark.train_stream:
        naive.train(experience, eval_streams=[])
        values.append(naive.eval(benchmark.test_stream))
        rows.append(accuracies(values[-1]))
    return untrained, rows, values


class TestInAvalanche:
    def test_the_definitions(self, run):
        untrained, rows, values = run
        for i in range(5):
            expected = summaries(rows[: i + 1], untrained)
            assert mine(values[i]) == pytest.approx(expected, abs=1e-6)

    def test_avalanche_s_values(self, run, benchmark):
        _, rows, values = run
        ahead = None
        for i, found in enumerate(values):
            ours = mine(found)
            theirs = {k.split("/")[0]: v for k, v in found.items() if k.endswith(WHERE)}
            assert ours.get("StreamBackwardTransfer_M", 0) == pytest.approx(
                theirs["StreamBWT"], abs=1e-6
            )
            assert ours.get("StreamForgetting_M", 0) >= theirs["StreamForgetting"] - 1e-6
            # Avalanche's has what comes next at once, ours when it was learned.
            forward, ahead = ahead, theirs["StreamForwardTransfer"]
            assert ours.get("StreamForwardTransfer_M") == pytest.approx(forward, abs=1e-6)
            # An accuracy over samples weighs test experiences by their sizes.
            sizes = [len(test.dataset) for test in benchmark.test_stream]
            weighed = sum(a * n for a, n in zip(rows[i], sizes, strict=True)) / sum(sizes)
            top = found[f"Top1_Acc_Stream{WHERE}/Task000"]
            assert top == pytest.approx(weighed, abs=1e-6)
        # The last average is over all experiences, which are not equally large.
        assert ours["StreamAverageAccuracy_M"] == pytest.approx(sum(rows[-1]) / 5, abs=1e-6)

    def test_nothing_collides(self, run):
        names = [name for name in run[2][-1] if name.endswith(WHERE)]
        assert len(set(names)) == len(names)
        assert {"StreamForgetting" + WHERE, "StreamForgetting_M" + WHERE} <= set(names)

    def test_evaluations_in_the_midst_of_training(self, benchmark):
        """Before, while and after an experience is learned, as Avalanche does it."""
        values = []
        for every in (-1, 0, 1):
            naive = strategy(continual_metrics(), eval_every=every)
            for experience in benchmark.train_stream[:3]:
                # Evaluations draw random numbers, too: in order, batches are the same.
                naive.train(experience, eval_streams=[benchmark.test_stream], shuffle=False)
                found = naive.eval(benchmark.test_stream)
            values.append(mine(found))
        assert values[0] == values[1] == values[2]
        assert len(values[0]) == 7

    def test_avalanche_s_own_last_evaluation_counts(self, benchmark):
        naive = strategy(continual_metrics(), accuracy_metrics(experience=True), eval_every=0)
        rows = []
        for experience in benchmark.train_stream[:2]:
            found = naive.train(experience, eval_streams=[benchmark.test_stream])
            rows.append(accuracies(found))
        assert mine(found) == pytest.approx(summaries(rows), abs=1e-6)

    def test_several_experiences_in_one_call(self, benchmark):
        naive = strategy(continual_metrics(), eval_every=0)
        tests = [benchmark.test_stream]
        found = naive.train(benchmark.train_stream[:3], eval_streams=tests, shuffle=False)
        one = strategy(continual_metrics())
        for experience in benchmark.train_stream[:3]:
            one.train(experience, shuffle=False)
            expected = one.eval(benchmark.test_stream)
        assert mine(found) == mine(expected)

    @pytest.mark.parametrize("told", [True, False])
    @pytest.mark.parametrize("size", [16, 13])
    def test_parts_of_online_streams_make_one_experience(self, benchmark, told, size):
        (metric,) = continual_metrics()
        naive = strategy(metric, accuracy_metrics(experience=True))
        naive.train_epochs = 1
        rows = []
        for experience in list(benchmark.train_stream)[:2]:
            parts_of = list(
                split_online_stream([experience], experience_size=size, access_task_boundaries=told)
            )
            for part in parts_of:
                # Before an experience all is known of those before it, within one nothing.
                found = naive.eval(benchmark.test_stream)
                if part is parts_of[0]:
                    expected = summaries(rows) if rows else {}
                    assert mine(found) == pytest.approx(expected)
                naive.train(part)
            rows.append(accuracies(naive.eval(benchmark.test_stream)))
        assert metric.matrix().shape == (2, 5)
        assert mine(naive.evaluator.get_last_metrics()) == pytest.approx(summaries(rows))

    def test_a_checkpoint_continues(self, benchmark, tmp_path):
        whole = strategy(continual_metrics(baseline=None))
        first = strategy(continual_metrics(baseline=None))
        for naive in (whole, first):
            naive.eval(benchmark.test_stream)
            for experience in benchmark.train_stream[:2]:
                naive.train(experience, shuffle=False)
                naive.eval(benchmark.test_stream)
        save_checkpoint(first, tmp_path / "half.pt")
        second, done = maybe_load_checkpoint(strategy(), tmp_path / "half.pt")
        assert done == 2
        for experience in benchmark.train_stream[2:4]:
            values = []
            for naive in (whole, second):
                naive.train(experience, shuffle=False)
                values.append(mine(naive.eval(benchmark.test_stream)))
        assert values[0] == values[1]
        assert len(values[0]) == 7

    def test_with_a_memory_what_is_learned_is_the_same(self, benchmark):
        weights = []
        for metrics in ([], continual_metrics()):
            memory = DGRPlugin(generator_steps=3, hidden=(16,), latent=4, seed=0)
            naive = strategy(*metrics, plugins=[memory])
            for experience in benchmark.train_stream[:2]:
                naive.train(experience)
                naive.eval(benchmark.test_stream)
            weights.append(torch.cat([p.detach().flatten() for p in naive.model.parameters()]))
        assert torch.equal(*weights)


def test_under_a_trainer(benchmark):
    short = SimpleNamespace(
        train_stream=list(benchmark.train_stream)[:3], test_stream=list(benchmark.test_stream)
    )
    evaluator = EvaluationPlugin(continual_metrics(), loggers=[])
    trainer = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 3}
    result = fit_stream(
        NaiveModule(network()), short, trainer=trainer, batch_size=32, evaluator=evaluator
    )
    found = mine(evaluator.get_last_metrics())
    assert found == pytest.approx(summaries(result.accuracy.tolist()), abs=1e-6)
    assert set(result.continual) == set(REPORTED)
    for name, value in result.continual.items():
        assert value == pytest.approx(found[REPORTED[name]], abs=1e-6)


def test_pickled_in_the_midst_of_a_stream():
    (metric,) = continual_metrics(baseline=None)
    world = World(metric, 3, 3)
    world.evaluate({0: 1, 1: 1, 2: 1})
    world.learn(0)
    world.evaluate({0: 8, 1: 2, 2: 1})
    again = World(pickle.loads(pickle.dumps(metric)), 3, 3)
    for one in (world, again):
        one.learn(1)
    assert world.evaluate({0: 6, 1: 8, 2: 4}) == again.evaluate({0: 6, 1: 8, 2: 4})
    metric.reset()
    assert metric.result() == {}
    assert world.evaluate({0: 6, 1: 8, 2: 4}) == {}


@pytest.mark.parametrize("seed", range(5))
def test_the_retention_of_each_experience(seed):
    rng = random.Random(seed)
    with pytest.warns(FutureWarning, match="continual_metrics"):
        (former,) = retention_metrics(stream=False)
    for metric in (former, *continual_metrics(experience_retention=True)):
        world = World(metric, 4, 4)
        rows = rows_of(rng, 4, 4)
        for i, row in enumerate(rows):
            world.learn(i)
            found = world.evaluate(row)
            expected = {
                f"ExperienceRetention{WHERE}/Task000/Exp{j:03d}": row[j] / rows[j][j]
                for j in range(i)
                if rows[j][j]
            }
            mine = {k: v for k, v in found.items() if k.startswith("ExperienceRetention")}
            assert mine == pytest.approx(expected)
            assert (set(mine) == set(found)) == (metric is former)


def test_some_are_left_out():
    (metric,) = continual_metrics(forgetting=False, forward_transfer=False)
    assert [str(metric)] == ["ContinualMetrics"]
    world = World(metric, 2, 2)
    world.learn(0)
    world.evaluate({0: 8, 1: 0})
    world.learn(1)
    assert set(world.evaluate({0: 4, 1: 8})) == {
        "StreamAverageAccuracy_M",
        "StreamAverageAnytimeAccuracy_M",
        "StreamLearningAccuracy_M",
        "StreamBackwardTransfer_M",
        "StreamRetention",
    }


def test_a_baseline_is_an_accuracy():
    for wrong in (-0.1, 1.5, NAN):
        with pytest.raises(ConfigError, match="baseline"):
            continual_metrics(baseline=wrong)

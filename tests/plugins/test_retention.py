"""Retention as an Avalanche metric: by hand, in both loops, and against torchmetrics."""

import pickle
from types import SimpleNamespace

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn

from avalanche_dgm import retention_metrics, sklearn_digits
from avalanche_dgm.lightning import NaiveModule, fit_stream
from avalanche_dgm.metrics import AccuracyMatrix, Retention, retention

EXPERIENCE = "ExperienceRetention/eval_phase/test_stream/Task000/Exp{:03d}"
STREAM = "StreamRetention/eval_phase/test_stream"


@pytest.fixture(scope="module")
def benchmark():
    return sklearn_digits(n_experiences=5, seed=0, fraction=0.3)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))


def evaluation(**which):
    metrics = [*accuracy_metrics(experience=True), *forgetting_metrics(experience=True)]
    return EvaluationPlugin(*metrics, *retention_metrics(**which), loggers=[])


def strategy(evaluator):
    net = network()
    return Naive(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.02),
        train_mb_size=32,
        train_epochs=3,
        evaluator=evaluator,
    )


def accuracies(metrics, n=5):
    name = "Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp{:03d}"
    return [metrics[name.format(j)] for j in range(n)]


def found(metrics):
    return {name: value for name, value in metrics.items() if "Retention" in name}


def check(matrix, metrics):
    """What was reported after the last row of a matrix is what follows from the matrix."""
    last = len(matrix) - 1
    expected = {
        EXPERIENCE.format(j): matrix[last][j] / matrix[j][j] for j in range(last) if matrix[j][j]
    }
    values = found(metrics)
    mean = values.pop(STREAM, None)
    assert values == pytest.approx(expected)
    if expected:
        assert mean == pytest.approx(float(retention(torch.tensor(matrix))), abs=1e-6)
    else:
        assert mean is None


@pytest.mark.filterwarnings("ignore:No loggers")
def test_in_avalanche_s_loop(benchmark):
    """Values, names, and torchmetrics on the same answers."""
    naive = strategy(evaluation())
    assert found(naive.eval(benchmark.test_stream)) == {}
    counted, matrix, values = Retention(5), [], []
    for step, experience in enumerate(benchmark.train_stream):
        naive.train(experience)
        metrics = naive.eval(benchmark.test_stream)
        matrix.append(accuracies(metrics))
        check(matrix, metrics)
        values.append(metrics.get(STREAM))
        for j, test in enumerate(benchmark.test_stream):
            images = torch.stack([test.dataset[i][0] for i in range(len(test.dataset))])
            with torch.no_grad():
                answers = naive.model(images)
            labels = torch.as_tensor(list(test.dataset.targets))
            counted.update(answers, labels, step=step, experience=j)
        if step:
            assert values[-1] == pytest.approx(float(counted.compute()), abs=1e-6)
    assert values[-1] < 0.9, "a plain network forgets"
    forgotten = "ExperienceForgetting/eval_phase/test_stream/Task000/Exp000"
    left = EXPERIENCE.format(0)
    assert metrics[left] == pytest.approx(1 - metrics[forgotten] / matrix[0][0])


@pytest.mark.filterwarnings("ignore:No loggers")
def test_under_a_trainer(benchmark):
    short = SimpleNamespace(
        train_stream=list(benchmark.train_stream)[:3], test_stream=list(benchmark.test_stream)
    )
    evaluator = evaluation()
    trainer = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 3}
    result = fit_stream(
        NaiveModule(network()), short, trainer=trainer, batch_size=32, evaluator=evaluator
    )
    metrics = evaluator.get_last_metrics()
    check(result.accuracy.tolist(), metrics)
    assert metrics[STREAM] == pytest.approx(result.continual["retention"], abs=1e-6)
    assert STREAM in evaluator.get_all_metrics()


def view(position, answers, stream="test_stream"):
    """A strategy that tests one experience of class 0."""
    experience = SimpleNamespace(
        current_experience=position, task_labels=[0], origin_stream=SimpleNamespace(name=stream)
    )
    return SimpleNamespace(
        experience=experience,
        is_training=False,
        is_eval=True,
        mb_output=nn.functional.one_hot(torch.tensor(answers), 3).float(),
        mb_y=torch.zeros(len(answers), dtype=torch.int64),
        clock=SimpleNamespace(train_iterations=7),
    )


def evaluate(metric, *views):
    metric.before_eval(views[0])
    reported = []
    for part in views:
        metric.before_eval_exp(part)
        metric.after_eval_iteration(part)
        reported += metric.after_eval_exp(part) or []
    return [value.value for value in [*reported, *(metric.after_eval(views[-1]) or [])]]


@pytest.mark.parametrize(("which", "expected"), [("experience", [0.5, 1.5]), ("stream", [1.0])])
def test_by_hand(which, expected):
    """All becomes a half, a half three quarters; nothing is said of what was never learned."""
    flags = {"experience": False, "stream": False, which: True}
    (metric,) = retention_metrics(**flags)
    metric.before_training_exp(view(0, [0]))
    assert evaluate(metric, view(0, [0, 0, 0, 0])) == []
    metric.before_training_exp(view(1, [0]))
    assert evaluate(metric, view(1, [0, 0, 1, 1])) == []
    metric.before_training_exp(view(2, [0]))
    # Of training images nothing was measured before, and of the fourth experience nothing at all.
    views = [view(0, [0, 0, 1, 1]), view(1, [0, 0, 0, 1]), view(2, [1, 1, 1, 1]), view(3, [0])]
    again = pickle.loads(pickle.dumps(metric))
    for one in (metric, again):
        assert evaluate(one, *views, view(0, [0], "train_stream")) == expected
    assert metric.result() == {0: 0.5, 1: 1.5}
    # The third was not known when it was the newest: no part of nothing is left.
    metric.before_training_exp(view(3, [0]))
    assert evaluate(metric, view(2, [0, 0, 0, 0])) == []
    metric.reset()
    assert evaluate(metric, *views) == []


def test_both_are_reported_unless_one_is_left_out():
    names = [str(metric) for metric in retention_metrics()]
    assert names == ["ExperienceRetention", "StreamRetention"]
    assert [str(m) for m in retention_metrics(stream=False)] == names[:1]


def test_a_matrix_of_the_same_counts():
    """The definition, on numbers whose shares are known."""
    matrix = AccuracyMatrix(2)
    for step, experience, right in ((0, 0, 8), (1, 0, 2), (1, 1, 10)):
        answers = torch.tensor([0] * right + [1] * (10 - right))
        matrix.update(answers, torch.zeros(10).long(), step=step, experience=experience)
    assert float(retention(matrix.compute())) == pytest.approx(0.25)

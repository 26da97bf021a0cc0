"""The torchmetrics: counting, their functions, several processes, and a stream in Avalanche."""

import forked
import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import bwt_metrics, forgetting_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn
from torchmetrics import Metric, MetricCollection

from avalanche_dgm import metrics, sklearn_digits
from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.metrics import AccuracyMatrix, ForwardTransfer

SUMMARIES = {
    metrics.AverageAccuracy: metrics.average_accuracy,
    metrics.AverageAnytimeAccuracy: metrics.average_anytime_accuracy,
    metrics.BackwardTransfer: metrics.backward_transfer,
    metrics.Forgetting: metrics.forgetting,
    metrics.ForwardTransfer: metrics.forward_transfer,
    metrics.LearningAccuracy: metrics.learning_accuracy,
    metrics.Retention: metrics.retention,
}


def stream(n=4, *, seed=0, batches=3):
    """Random batches of answers, with the steps and test experiences that they belong to."""
    rng = torch.Generator().manual_seed(seed)
    for step in range(n):
        for experience in range(n):
            for _ in range(batches):
                size = int(torch.randint(1, 20, (), generator=rng))
                logits = torch.randn(size, 5, generator=rng)
                labels = torch.randint(5, (size,), generator=rng)
                yield logits, labels, {"step": step, "experience": experience}


def counted(batches, n=4):
    """The accuracies of batches, by counting."""
    right, all_of_them = {}, {}
    for logits, labels, where in batches:
        place = (where["step"], where["experience"])
        for answer, label in zip(logits.tolist(), labels.tolist(), strict=True):
            all_of_them[place] = all_of_them.get(place, 0) + 1
            right[place] = right.get(place, 0) + (answer.index(max(answer)) == label)
    matrix = torch.full((n, n), torch.nan)
    for place, total in all_of_them.items():
        matrix[place] = right[place] / total
    return matrix


def equal(mine, expected):
    return torch.allclose(mine, expected, equal_nan=True)


def test_counts_over_batches():
    metric = AccuracyMatrix(4)
    batches = [b for b in stream() if b[2]["step"] < 2]
    for logits, labels, where in batches:
        metric.update(logits, labels, **where)
    expected = counted(batches)
    assert equal(metric.compute(), expected)
    assert bool(metric.compute()[2:].isnan().all())
    assert metric.correct.dtype == metric.total.dtype == torch.int64
    metric.reset()
    assert bool(metric.compute().isnan().all())


def test_updating_does_not_wait_for_the_device():
    # A tensor on the device "meta" has no values, so that nothing can look at them.
    metric = AccuracyMatrix(2).to("meta")
    logits, labels = torch.zeros(3, 5, device="meta"), torch.zeros(3, dtype=int, device="meta")
    metric.update(logits, labels, step=1, experience=0)
    metric.update(labels, labels, step=1, experience=1)
    with pytest.raises(Exception, match="meta"):
        metric.compute().tolist()


def test_classes_count_as_logits_do():
    first, second = AccuracyMatrix(4), AccuracyMatrix(4)
    for logits, labels, where in stream():
        first.update(logits, labels, **where)
        second.update(logits.argmax(dim=1), labels, **where)
    assert torch.equal(first.compute(), second.compute())


@pytest.mark.parametrize("kind", SUMMARIES)
def test_summaries_are_their_functions(kind):
    metric, matrix = kind(4), AccuracyMatrix(4)
    for logits, labels, where in stream():
        metric.update(logits, labels, **where)
        matrix.update(logits, labels, **where)
    assert float(metric.compute()) == pytest.approx(SUMMARIES[kind](matrix.compute()))
    assert bool(metric.compute().isfinite())


def test_baseline():
    metric, matrix = ForwardTransfer(4, baseline=torch.full((4,), 0.2)), AccuracyMatrix(4)
    for logits, labels, where in stream():
        metric.update(logits, labels, **where)
        matrix.update(logits, labels, **where)
    expected = metrics.forward_transfer(matrix.compute(), 0.2)
    assert float(metric.compute()) == pytest.approx(expected)


def test_more_training_than_test_experiences():
    metric = AccuracyMatrix(5, n_test=2)
    metric.update(torch.tensor([1, 2]), torch.tensor([1, 1]), step=4, experience=1)
    assert metric.compute().shape == (5, 2)
    assert float(metric.compute()[4, 1]) == 0.5


def test_a_collection_counts_once():
    collection = MetricCollection([kind(4) for kind in SUMMARIES])
    batches = list(stream())
    for logits, labels, where in batches:
        collection.update(logits, labels, **where)
    values = collection.compute()
    assert len(collection.compute_groups) == 1
    for kind, function in SUMMARIES.items():
        assert float(values[kind.__name__]) == pytest.approx(function(counted(batches)))


@pytest.mark.skipif(not hasattr(Metric, "merge_state"), reason="torchmetrics merges from 1.6 on")
def test_parts_of_several_processes_add_up():
    parts = [AccuracyMatrix(4), AccuracyMatrix(4)]
    whole = list(stream())
    for i, (logits, labels, where) in enumerate(whole):
        parts[i % 2].update(logits, labels, **where)
    parts[0].merge_state(parts[1])
    assert equal(parts[0].compute(), counted(whole))
    assert not equal(parts[1].compute(), counted(whole))


PROCESS = """
import torch
from driver import leave
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo")
from avalanche_dgm.metrics import AccuracyMatrix, Forgetting
rank = torch.distributed.get_rank()
matrix, lost = AccuracyMatrix(2), Forgetting(2)
# Rank 0 answers two of three rightly, rank 1 one of five; only rank 1 sees the rest.
answers = [[1, 1, 0], [1, 0, 0, 0, 0]][rank]
for metric in (matrix, lost):
    metric.update(torch.tensor(answers), torch.ones(len(answers), dtype=int), step=0, experience=0)
    if rank == 1:
        metric.update(torch.tensor([0, 1, 0, 0]), torch.ones(4, dtype=int), step=1, experience=0)
values = matrix.compute(), lost.compute()
assert int(matrix.total.sum()) in (3, 9), "the counts are this process's own again"
print([round(v, 6) for v in values[0].flatten().tolist()], round(float(values[1]), 6))
torch.distributed.barrier()
leave()
"""


def test_two_processes(tmp_path):
    (tmp_path / "script.py").write_text(PROCESS)
    outputs = forked.run_ranks(tmp_path / "script.py")
    assert outputs == ["[0.375, nan, 0.25, nan] 0.125\n"] * 2


class Recorder(SupervisedPlugin):
    """Feeds the metrics from Avalanche's evaluation."""

    def __init__(self, *kinds):
        super().__init__()
        self.metrics = [kind(5) for kind in kinds]

    def after_eval_iteration(self, strategy, *args, **kwargs):
        for metric in self.metrics:
            metric.update(
                strategy.mb_output,
                strategy.mb_y,
                step=strategy.clock.train_exp_counter - 1,
                experience=strategy.experience.current_experience,
            )


def test_on_a_stream_in_avalanche():
    benchmark = sklearn_digits(n_experiences=5, seed=0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    mine = Recorder(AccuracyMatrix, metrics.BackwardTransfer, metrics.Forgetting)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=32,
        train_epochs=3,
        eval_mb_size=512,
        plugins=[mine],
        evaluator=EvaluationPlugin(
            bwt_metrics(stream=True), forgetting_metrics(stream=True), loggers=[]
        ),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
        result = strategy.eval(benchmark.test_stream)
    matrix, backward, lost = (metric.compute() for metric in mine.metrics)
    assert float(backward) == pytest.approx(result["StreamBWT/eval_phase/test_stream"], abs=1e-6)
    # A plain network is best right after learning, so that both definitions agree.
    assert torch.equal(matrix[:4, :4].amax(dim=0), matrix.diagonal()[:4])
    theirs = result["StreamForgetting/eval_phase/test_stream"]
    assert float(lost) == pytest.approx(theirs, abs=1e-6)
    assert float(lost) > 0.5
    assert float(metrics.learning_accuracy(matrix)) > 0.9


class TestErrors:
    @pytest.mark.parametrize("n", [0, -1, 1.5])
    def test_lengths(self, n):
        with pytest.raises(ConfigError, match="n_experiences"):
            AccuracyMatrix(n)

    @pytest.mark.parametrize("where", [(3, 0), (0, 3), (-1, 0), (0, -1)])
    def test_places(self, where):
        with pytest.raises(ConfigError, match="steps 0 to 2"):
            AccuracyMatrix(3).update(
                torch.zeros(1), torch.zeros(1), step=where[0], experience=where[1]
            )

    @pytest.mark.parametrize(
        ("answers", "labels"), [((2, 5), (3,)), ((3,), (2,)), ((2, 5, 5), (2,)), ((2,), (2, 1))]
    )
    def test_shapes(self, answers, labels):
        metric = AccuracyMatrix(3)
        with pytest.raises(ShapeError, match="do not match"):
            metric.update(torch.zeros(answers), torch.zeros(labels), step=0, experience=0)
        assert int(metric.total.sum()) == 0

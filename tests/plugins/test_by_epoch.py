"""Old and new accuracies over the epochs of an experience are those that Avalanche reports."""

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from driver import network

from avalanche_dgm import ALTMPlugin, sklearn_digits, turntable_domains
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.models import MultiHeadMLP
from avalanche_dgm.plugins.by_epoch import AccuracyByEpoch


class Evaluations(BaseLogger):
    """Keeps what each evaluation reported."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def before_eval(self, strategy, metric_values, **kwargs):
        self.seen.append({})

    def after_eval_exp(self, strategy, metric_values, **kwargs):
        self.seen[-1] |= {v.name.split("/")[-1]: v.value for v in metric_values}


def learn(benchmark, model, *plugins, eval_every=1, streams=None, epochs=2):
    torch.manual_seed(0)
    log = Evaluations()
    recorder = AccuracyByEpoch()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        train_mb_size=16,
        train_epochs=epochs,
        eval_mb_size=512,
        eval_every=eval_every,
        plugins=[*plugins, recorder],
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[log]),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=streams or [benchmark.test_stream])
    return recorder, log, strategy


@pytest.fixture(scope="module")
def benchmark():
    return sklearn_digits(n_experiences=2, n_train_per_class=12)


def test_the_numbers_are_those_of_the_strategy(benchmark):
    recorder, log, strategy = learn(benchmark, network(), epochs=6)
    # An evaluation before each experience and after each of its epochs.
    assert len(log.seen) == 2 * 7
    expected = [(epoch, seen["Exp000"], seen["Exp001"]) for epoch, seen in enumerate(log.seen[7:])]
    assert recorder.table() == recorder.table(1) == expected
    first, *_, last = recorder.table()
    assert first.old > last.old + 0.2, "something was forgotten"
    assert first.new < last.new - 0.1, "something was learned"
    # What is evaluated later belongs to what is learned later.
    strategy.eval(benchmark.test_stream)
    assert recorder.table() == expected
    both = recorder.table(0, old=[1], new=[0])
    assert [row[1:] for row in both] == [(s["Exp001"], s["Exp000"]) for s in log.seen[:7]]
    means = recorder.table(old=[0, 1])
    assert [row.old for row in means] == pytest.approx([(a + b) / 2 for _, a, b in expected])


def test_experiences_that_are_tested_one_by_one(benchmark):
    together, _, _ = learn(benchmark, network())
    single, _, _ = learn(benchmark, network(), streams=list(benchmark.test_stream))
    assert single.table() == together.table()


def test_listening_changes_nothing(benchmark):
    with_it, without = network(), network()
    learn(benchmark, with_it)
    torch.manual_seed(0)
    strategy = Naive(
        model=without,
        optimizer=torch.optim.Adam(without.parameters(), lr=1e-2),
        train_mb_size=16,
        train_epochs=2,
        eval_mb_size=512,
        eval_every=1,
        evaluator=EvaluationPlugin(loggers=[Evaluations()]),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[benchmark.test_stream])
    for a, b in zip(with_it.parameters(), without.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_images_are_left_out(benchmark):
    recorder, _, _ = learn(benchmark, network(), streams=[benchmark.train_stream])
    assert recorder.table() == []


def test_domains_with_heads_of_their_own():
    benchmark = turntable_domains(n_train=1, n_test=1, fraction=0.1, n_train_per_class=10, size=16)
    recorder, _, _ = learn(benchmark, MultiHeadMLP(256, hidden=[32]), ALTMPlugin())
    table = recorder.table()
    assert [row.epoch for row in table] == [0, 1, 2]
    assert all(0 <= row.old <= 1 and 0 <= row.new <= 1 for row in table)


def test_tables_that_there_are_not(benchmark):
    with pytest.raises(ConfigError, match="0 experiences"):
        AccuracyByEpoch().table()
    recorder, _, _ = learn(benchmark, network(), epochs=1)
    with pytest.raises(ConfigError, match="No experience was learned before"):
        recorder.table(0)
    with pytest.raises(ConfigError, match="training=2 is out of range"):
        recorder.table(2)

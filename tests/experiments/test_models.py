"""Multi-task models in Avalanche: each task trains and answers with its own head."""

import pytest
import torch
from avalanche.models import MultiHeadClassifier, MultiTaskModule
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive

from avalanche_dgm.data import MASKED_LOGIT
from avalanche_dgm.experiments.models import MultiTaskAlexNet
from avalanche_dgm.streams import turntable_domains

SMALL = {"channels": (4, 4, 4, 4, 4), "hidden": 8, "dropout": 0.0}


@pytest.fixture(scope="module")
def benchmark():
    """Categories and viewpoints at once, then digits."""
    return turntable_domains(categories=True, n_train=1, n_test=1, size=8, fraction=0.1)


def train(model, benchmark, experiences):
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        train_mb_size=50,
        eval_mb_size=200,
        evaluator=EvaluationPlugin(loggers=[]),
    )
    for position in experiences:
        strategy.train(benchmark.train_stream[position])
    return strategy


@pytest.mark.filterwarnings("ignore:No loggers")
def test_each_task_trains_its_own_head(benchmark):
    model = MultiTaskAlexNet((1, 8, 8), {0: 10, 1: 88, 2: 10}, **SMALL)
    assert isinstance(model, MultiTaskModule)
    heads = model.network.heads.heads
    before = {task: head.weight.detach().clone() for task, head in heads.items()}
    strategy = train(model, benchmark, [0])
    changed = {t: not torch.equal(before[t], head.weight) for t, head in heads.items()}
    assert changed == {"0": True, "1": True, "2": False}
    strategy.train(benchmark.train_stream[1])
    assert not torch.equal(before["2"], heads["2"].weight)
    strategy.eval(benchmark.test_stream)


def test_answers(benchmark):
    model = MultiTaskAlexNet((1, 8, 8), {0: 10, 1: 88, 2: 10}, **SMALL).eval()
    images, tasks = torch.rand(3, 1, 8, 8), torch.tensor([2, 1, 0])
    logits = model(images, tasks)
    assert logits.shape == (3, 88)
    assert (logits == MASKED_LOGIT).sum(dim=1).tolist() == [78, 0, 78]
    for row, task in enumerate(tasks.tolist()):
        alone = model.forward_single_task(images, task)
        torch.testing.assert_close(alone[row], logits[row])
    train(model, benchmark, [0])
    assert set(model(images, None)) == {0, 1}


def test_avalanche_s_growing_heads_take_the_stream_too(benchmark):
    class Model(MultiTaskModule):
        def __init__(self):
            super().__init__()
            self.heads = MultiHeadClassifier(64, masking=False)

        def forward(self, x, task_labels):
            return self.heads(x.flatten(1), task_labels)

    model = Model()
    train(model, benchmark, [0, 1]).eval(benchmark.test_stream)
    assert set(model.heads.classifiers) == {"0", "1", "2"}

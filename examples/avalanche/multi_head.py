"""Task-incremental: the task is known at test time, and the model has a head for each.

Run it with ``python examples/avalanche/multi_head.py``; ``--fast`` only shows that it works.
"""

import argparse
import io

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TextLogger
from avalanche.models import MultiHeadClassifier, MultiTaskModule
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import Tensor, nn

from avalanche_dgm import DGRPlugin, memory_metrics, sklearn_digits


class MultiHeadNet(MultiTaskModule):
    """Avalanche hands task labels to a ``MultiTaskModule``, and so does the plugin's replay."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU())
        # It grows a head for each task that it meets.
        self.classifier = MultiHeadClassifier(200, masking=False)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        """Answers each image with the head of its task."""
        return self.classifier(self.body(x), task_labels)


def main(fast: bool) -> float:
    torch.manual_seed(0)
    benchmark = sklearn_digits(
        n_experiences=5, task_labels=True, n_train_per_class=20 if fast else None
    )
    model = MultiHeadNet()
    plugin = DGRPlugin(generator_steps=20) if fast else DGRPlugin()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        train_mb_size=32,
        train_epochs=1 if fast else 10,
        eval_mb_size=512,
        plugins=[plugin],
        evaluator=EvaluationPlugin(
            accuracy_metrics(experience=True), memory_metrics(), loggers=[TextLogger(io.StringIO())]
        ),
    )

    for experience in benchmark.train_stream:
        strategy.train(experience)

    metrics = strategy.eval(benchmark.test_stream)
    accuracies = []
    for i in range(len(benchmark.test_stream)):
        name = f"Top1_Acc_Exp/eval_phase/test_stream/Task{i:03}/Exp{i:03}"
        accuracies.append(metrics[name])
        print(f"task {i}: {metrics[name]:.3f}")
    accuracy = sum(accuracies) / len(accuracies)
    print(f"final accuracy: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    main(parser.parse_args().fast)

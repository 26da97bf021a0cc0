"""Task-incremental under a Lightning Trainer: the task is known, and the model has a head for each.

Run it with ``python examples/lightning/multi_head.py``; ``--fast`` only shows that it works.
"""

import argparse

from avalanche.models import MultiHeadClassifier, MultiTaskModule
from pytorch_lightning import seed_everything
from torch import Tensor, nn

from avalanche_dgm import sklearn_digits
from avalanche_dgm.lightning import DGRModule, fit_stream


class MultiHeadNet(MultiTaskModule):
    """Task labels go to an Avalanche ``MultiTaskModule``, those of replayed samples, too."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU())
        # It grows a head for each task that it meets.
        self.classifier = MultiHeadClassifier(200, masking=False)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        """Answers each image with the head of its task."""
        return self.classifier(self.body(x), task_labels)


def main(fast: bool, devices: str) -> float:
    seed_everything(0, verbose=False)
    benchmark = sklearn_digits(
        n_experiences=5, task_labels=True, n_train_per_class=20 if fast else None
    )
    module = DGRModule(MultiHeadNet(), generator_steps=20 if fast else 800)
    # On several devices a step may leave some heads without a gradient: PyTorch has to be told.
    several = {} if devices == "1" else {"strategy": "ddp_find_unused_parameters_true"}
    result = fit_stream(
        module,
        benchmark,
        trainer={"devices": devices, "max_epochs": 1 if fast else 10, **several},
        batch_size=32,
    )
    for task, accuracy in enumerate(result.accuracy[-1].tolist()):
        print(f"task {task}: {accuracy:.3f}")
    print(f"final accuracy: {result.average_accuracy:.3f}")
    return result.average_accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    parser.add_argument("--devices", default="1", help="how many, or auto")
    options = parser.parse_args()
    main(options.fast, options.devices)

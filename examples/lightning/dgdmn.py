"""DGDMN under a Lightning Trainer: a dual memory learns ten digits, one after the other.

Run it with ``python examples/lightning/dgdmn.py``; ``--fast`` only shows that it works, and
``--devices 2`` uses two GPUs, or two processes where there are none.
"""

import argparse
import io

from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin
from pytorch_lightning import seed_everything
from torch import nn

from avalanche_dgm import memory_metrics, sklearn_digits
from avalanche_dgm.lightning import DGDMNModule, fit_stream


def main(fast: bool, devices: str) -> float:
    # Every process builds the same: the stream, the model, and what is drawn at random.
    seed_everything(0, verbose=False)
    benchmark = sklearn_digits(n_train_per_class=20 if fast else None)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 400),
        nn.ReLU(),
        nn.Linear(400, 400),
        nn.ReLU(),
        nn.Linear(400, benchmark.n_classes),
    )

    # The method around your model. Its generators, short-term learners and sleeps are trained
    # under the Trainer as well.
    steps = {"generator_steps": 20, "learner_steps": 20} if fast else {}
    module = DGDMNModule(model, **steps)

    # Avalanche's metrics and loggers work as in a strategy, over all devices.
    evaluator = EvaluationPlugin(
        accuracy_metrics(experience=True, stream=True),
        memory_metrics(),
        loggers=[TextLogger(io.StringIO())],
    )
    result = fit_stream(
        module,
        benchmark,
        trainer={"devices": devices, "max_epochs": 1 if fast else 30},
        evaluator=evaluator,
        batch_size=32,  # over all devices
        test="seen",
    )

    for record, row in zip(result.records, result.accuracy, strict=True):
        print(f"{row.nanmean():.3f} on all classes so far, {record.sleeps} sleeps")
    print(f"forgetting: {result.continual['forgetting']:.3f}")
    print(f"final accuracy: {result.average_accuracy:.3f}")
    return result.average_accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    parser.add_argument("--devices", default="1", help="how many, or auto")
    options = parser.parse_args()
    main(options.fast, options.devices)

"""Any Avalanche strategy under a Lightning Trainer, with its plugins, metrics and loggers.

Run it with ``python examples/lightning/strategy.py``; ``--fast`` only shows that it works.
"""

import argparse
import io

import torch
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.supervised import EWC
from pytorch_lightning import seed_everything
from torch import nn

from avalanche_dgm import sklearn_digits
from avalanche_dgm.lightning import run_on_trainer


def main(fast: bool, devices: str) -> float:
    seed_everything(0, verbose=False)
    benchmark = sklearn_digits(n_experiences=5, n_train_per_class=20 if fast else None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 10))
    strategy = EWC(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        criterion=nn.CrossEntropyLoss(),
        ewc_lambda=1.0,
        train_mb_size=32,  # over all devices
        train_epochs=1 if fast else 10,
        eval_mb_size=512,
        plugins=[ReplayPlugin(mem_size=200)],
        evaluator=EvaluationPlugin(
            accuracy_metrics(stream=True),
            forgetting_metrics(stream=True),
            loggers=[TextLogger(io.StringIO())],
        ),
    )

    # In place of a loop over strategy.train and strategy.eval; on one device with the same weights.
    results = run_on_trainer(strategy, benchmark, trainer={"devices": devices})

    accuracy = results[-1]["Top1_Acc_Stream/eval_phase/test_stream/Task000"]
    forgetting = results[-1]["StreamForgetting/eval_phase/test_stream"]
    print(f"forgetting: {forgetting:.3f}")
    print(f"final accuracy: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    parser.add_argument("--devices", default="1", help="how many, or auto")
    options = parser.parse_args()
    main(options.fast, options.devices)

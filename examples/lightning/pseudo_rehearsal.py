"""Pseudopattern rehearsal under a Lightning Trainer: a baseline that stores nothing at all.

Run it with ``python examples/lightning/pseudo_rehearsal.py``; ``--fast`` only shows that it works.
"""

import argparse

from pytorch_lightning import seed_everything
from torch import nn

from avalanche_dgm import sklearn_digits
from avalanche_dgm.lightning import NaiveModule, PseudoRehearsalModule, fit_stream


def main(fast: bool, devices: str) -> float:
    accuracies = {}
    for kind in (NaiveModule, PseudoRehearsalModule):
        seed_everything(0, verbose=False)
        benchmark = sklearn_digits(n_experiences=5, n_train_per_class=20 if fast else None)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 10))
        result = fit_stream(
            kind(model),
            benchmark,
            trainer={"devices": devices, "max_epochs": 1 if fast else 10},
            batch_size=32,
        )
        accuracies[kind] = result.average_accuracy
        print(f"{kind.__name__}: forgetting {result.continual['forgetting']:.3f}")
    print(f"plain network: {accuracies[NaiveModule]:.3f}")
    print(f"final accuracy: {accuracies[PseudoRehearsalModule]:.3f}")
    return accuracies[PseudoRehearsalModule]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    parser.add_argument("--devices", default="1", help="how many, or auto")
    options = parser.parse_args()
    main(options.fast, options.devices)

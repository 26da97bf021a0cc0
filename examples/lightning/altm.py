"""A-LTM under a Lightning Trainer: the model is held near a frozen copy of itself.

Run it with ``python examples/lightning/altm.py``; ``--fast`` only shows that it works.
"""

import argparse

from pytorch_lightning import seed_everything
from torch import nn

from avalanche_dgm import latent_split
from avalanche_dgm.lightning import ALTMModule, fit_stream


def main(fast: bool, devices: str) -> float:
    seed_everything(0, verbose=False)

    # Five digits, then the other five. The stream also takes MNIST, Fashion-MNIST and KMNIST.
    benchmark = latent_split(dataset="sklearn-digits", n_train_per_class=20 if fast else None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 10))
    # No input is kept: a generative memory makes those that the copy is asked about.
    steps = {"generator_steps": 20} if fast else {}
    module = ALTMModule(model, replay="generated", **steps)

    result = fit_stream(
        module,
        benchmark,
        trainer={"devices": devices, "max_epochs": 1 if fast else 20},
        batch_size=32,
    )
    original, new = result.accuracy[-1].tolist()
    print(f"original digits {original:.3f}, new ones {new:.3f}")
    print(f"final accuracy: {result.average_accuracy:.3f}")
    return result.average_accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    parser.add_argument("--devices", default="1", help="how many, or auto")
    options = parser.parse_args()
    main(options.fast, options.devices)

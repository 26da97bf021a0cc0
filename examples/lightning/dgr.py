"""Deep generative replay under a Lightning Trainer: ten digits, one after the other.

Run it with ``python examples/lightning/dgr.py``; ``--fast`` only shows that it works.
"""

import argparse

from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import EarlyStopping
from torch import nn

from avalanche_dgm import OptimizerSpec, sklearn_digits
from avalanche_dgm.lightning import DGRModule, fit_stream


def main(fast: bool, devices: str) -> float:
    seed_everything(0, verbose=False)
    benchmark = sklearn_digits(n_train_per_class=20 if fast else None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 10))

    # What trains the model; the generator has an optimiser of its own (generator_optimizer).
    optimizer = OptimizerSpec("adam", lr=1e-3)
    module = DGRModule(model, optimizer=optimizer, generator_steps=20 if fast else 800)

    # Callbacks that stop or save look at one experience at a time, and at the model's training.
    stop = EarlyStopping("train/loss", patience=5)
    result = fit_stream(
        module,
        benchmark,
        trainer={"devices": devices, "max_epochs": 1 if fast else 30, "gradient_clip_val": 5.0},
        callbacks=[stop],
        batch_size=32,
    )

    # The memory draws labelled samples of everything that was learned.
    counts = module.method.sample(200).labels.bincount(minlength=10)
    print(f"200 samples of the memory, by class: {counts.tolist()}")
    print(f"replayed in the last experience: {result.records[-1].replayed} samples")
    print(f"final accuracy: {result.average_accuracy:.3f}")
    return result.average_accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    parser.add_argument("--devices", default="1", help="how many, or auto")
    options = parser.parse_args()
    main(options.fast, options.devices)

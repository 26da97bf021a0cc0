"""Latent replay under a Lightning Trainer: a few latents behind a frozen compressor.

Run it with ``python examples/lightning/latent_replay.py``; ``--fast`` only shows that it works.
"""

import argparse

from pytorch_lightning import seed_everything

from avalanche_dgm import latent_replay_network, latent_split
from avalanche_dgm.lightning import LatentReplayModule, fit_stream


def main(fast: bool, devices: str) -> float:
    seed_everything(0, verbose=False)

    # Five digits, then the other five. The stream also takes MNIST, Fashion-MNIST and KMNIST.
    benchmark = latent_split(dataset="sklearn-digits", n_train_per_class=20 if fast else None)
    # A compressor and a classifier; a model of yours is cut by LatentReplayPlugin(layer=...).
    model = latent_replay_network((1, 8, 8), n_classes=10)
    # Nothing is stored: latents are drawn from a Gaussian for each class.
    module = LatentReplayModule(model, memory="density")

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

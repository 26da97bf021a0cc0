"""A variational autoencoder of the package on its own, with a plain Trainer.

Run it with ``python examples/lightning/vae.py``; ``--fast`` only shows that it works.
"""

import argparse

import pytorch_lightning as pl

from avalanche_dgm import sklearn_digits
from avalanche_dgm.lightning import StreamDataModule, VAEModule


def main(fast: bool, devices: str) -> float:
    pl.seed_everything(0, verbose=False)
    # One experience with all digits; any loader of images, or of images and labels, will do.
    data = StreamDataModule(sklearn_digits(n_experiences=1), batch_size=64)
    images = data.experience_data(0).images

    # Sizes and likelihood are chosen from the images.
    vae = VAEModule.for_images(images, seed=0)
    trainer = pl.Trainer(
        max_epochs=2 if fast else 40,
        devices=devices,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(vae, datamodule=data)
    (measured,) = trainer.test(vae, datamodule=data, verbose=False)

    samples = vae.sample(16)
    print(f"16 samples of shape {tuple(samples.shape[1:])}, from {samples.min():.2f} to", end=" ")
    print(f"{samples.max():.2f}")
    print(f"final loss: {measured['test/loss']:.2f} nats an image")
    return measured["test/loss"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    parser.add_argument("--devices", default="1", help="how many, or auto")
    options = parser.parse_args()
    main(options.fast, options.devices)

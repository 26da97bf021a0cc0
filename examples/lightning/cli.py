"""LightningCLI: method, data and Trainer from a YAML file, each option on the command line.

Run it with ``python examples/lightning/cli.py fit --config examples/lightning/cli.yaml``. Every
setting of the method is an option: ``--model.stm_size 3``; ``fit --help`` lists them, and
``fit --config ... --print_config`` prints the whole file.
"""

from typing import Any

from pytorch_lightning.cli import LightningCLI
from torch import nn

from avalanche_dgm import sklearn_digits
from avalanche_dgm.lightning import DGDMNModule, StreamDataModule, fit_stream


def classifier(hidden: int = 400, n_classes: int = 10) -> nn.Module:
    """A network for 8x8 images; a function with a return type can stand for a class in YAML."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, n_classes),
    )


def digits(
    n_experiences: int = 10, n_train_per_class: int | None = None, batch_size: int = 32
) -> StreamDataModule:
    """The digits that scikit-learn ships, as a data module."""
    stream = sklearn_digits(n_experiences=n_experiences, n_train_per_class=n_train_per_class)
    return StreamDataModule(stream, batch_size=batch_size)


class StreamCLI(LightningCLI):
    """LightningCLI whose ``fit`` learns all experiences of the data module, one after the other.

    With ``--ckpt_path FOLDER`` the run is saved in a folder, and an interrupted one is resumed.
    """

    def fit(
        self,
        model: DGDMNModule,
        datamodule: StreamDataModule,
        ckpt_path: str | None = None,
        **_: Any,
    ) -> None:
        """Trains, and tests all that was learned after each experience."""
        result = fit_stream(
            model,
            datamodule,
            trainer=self.trainer,
            test="seen",
            checkpoint_dir=ckpt_path,
            resume=ckpt_path is not None,
        )
        print(f"forgetting: {result.continual['forgetting']:.3f}")
        print(f"final accuracy: {result.average_accuracy:.3f}")


if __name__ == "__main__":
    StreamCLI(DGDMNModule, digits, save_config_callback=None)

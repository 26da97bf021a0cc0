"""A W&B dashboard of what is remembered, under a Trainer: offline first, synchronised later.

Run it with ``python examples/lightning/dashboard.py``, without an account or a network; ``--fast``
only shows that it works. The panels are those of the example for Avalanche.
"""

import argparse
from pathlib import Path

import torch
from pytorch_lightning.loggers import WandbLogger
from torch import nn

from avalanche_dgm import sklearn_digits
from avalanche_dgm.lightning import DashboardCallback, DGDMNModule, fit_stream


def main(fast: bool) -> float:
    torch.manual_seed(0)
    benchmark = sklearn_digits(n_experiences=5, n_train_per_class=20 if fast else None)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, benchmark.n_classes)
    )
    few = {"generator_steps": 20, "learner_steps": 20} if fast else {}

    # Lightning's own logger; mode="offline" keeps the run on disk.
    logger = WandbLogger(project="memories", name="dgdmn", save_dir=Path.cwd(), mode="offline")
    result = fit_stream(
        DGDMNModule(model, **few),
        benchmark,
        trainer={"logger": logger, "accelerator": "auto"},
        # All that is added: it shows panels in the Trainer's loggers, of W&B, TensorBoard or CSV.
        callbacks=[DashboardCallback()],
        epochs=1 if fast else 20,
        batch_size=32,
    )
    folder = Path(logger.experiment.dir).parent
    logger.experiment.finish()
    print(f"final accuracy: {result.average_accuracy:.3f}")
    print(f"with a network and an account: wandb sync {folder}")
    return result.average_accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    main(parser.parse_args().fast)

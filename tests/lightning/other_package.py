"""Learns a stream with what a user brings of one of Lightning's packages: MODULE FOLDER.

The module, such as ``lightning.pytorch``, is imported first, as a user does. What was found is
printed as JSON.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

SMALL = {
    "generator_steps": 10,
    "finetune_steps": 0,
    "hidden": (16, 16),
    "latent": 4,
    "seed": 0,
}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


def learn(pl, folder):
    """Everything that a user brings, in one run; what became of it."""
    import torch
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch import nn

    from avalanche_dgm import sklearn_digits
    from avalanche_dgm.lightning import DashboardCallback, DGRModule, fit_stream

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    stop = pl.callbacks.EarlyStopping("train/accuracy", mode="max", patience=0, min_delta=2.0)
    save = pl.callbacks.ModelCheckpoint(folder / "best", monitor="train/loss")
    trainer = pl.Trainer(
        max_epochs=3,
        logger=pl.loggers.TensorBoardLogger(folder / "tb"),
        callbacks=[stop, save, DashboardCallback(latents=False)],
        **QUIET,
    )
    benchmark = sklearn_digits(n_experiences=2, n_train_per_class=10)
    module = DGRModule(net, **SMALL)
    result = fit_stream(module, benchmark, trainer=trainer, batch_size=20)
    (events,) = {path.parent for path in (folder / "tb").rglob("events.*")}
    read = EventAccumulator(str(events))
    read.Reload()
    tags = read.Tags()
    return {
        "module": pl.__name__,
        "accuracy": result.accuracy.tolist(),
        "weights": sum(p.double().abs().sum().item() for p in net.parameters()),
        "iterations": result.iterations,
        "best": [Path(path).name for path in result.best_checkpoints],
        "scalars": sorted(tags["scalars"]),
        "images": sorted(tags["images"]),
    }


if __name__ == "__main__":
    found = learn(import_module(sys.argv[1]), Path(sys.argv[2]))
    print("RESULT" + json.dumps(found))

"""Kill it at any moment and run it again: it goes on, and ends as without the kill.

Run ``python examples/lightning/checkpoint.py``, interrupt it wherever you like (Ctrl-C, or
``kill -9``), and run it again; ``--fast`` only shows that it works.
"""

import argparse
from pathlib import Path

from pytorch_lightning import seed_everything
from torch import nn

from avalanche_dgm import sklearn_digits
from avalanche_dgm.lightning import DGDMNModule, StreamResult, fit_stream


class PowerCutError(Exception):
    """Stands for a machine that goes down."""


def main(folder: Path, stop_after: int | None, fast: bool) -> float | None:
    seed_everything(0, verbose=False)
    benchmark = sklearn_digits(n_experiences=5, n_train_per_class=20 if fast else None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 10))
    steps = {"generator_steps": 20, "learner_steps": 20} if fast else {}

    def report(result: StreamResult) -> None:
        print(f"{len(result)} of 5 experiences are learned: {result.average_accuracy:.3f}")
        if len(result) == stop_after:
            raise PowerCutError

    try:
        result = fit_stream(
            DGDMNModule(model, **steps),
            benchmark,
            trainer={"max_epochs": 1 if fast else 20},
            batch_size=32,
            # Written after each experience and phase, and every hundred steps within them.
            checkpoint_dir=folder,
            save_every=100,
            # Where the folder is empty, the run begins at the beginning. The files are pickles,
            # which can run code when they are loaded: go on only in a folder that you trust.
            resume=True,
            after_experience=report,
        )
    except PowerCutError:
        print(f"stopped after {stop_after} experiences; run this again to go on")
        return None
    print(f"final accuracy: {result.average_accuracy:.6f}")
    return result.average_accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/lightning-checkpoint-example"))
    parser.add_argument("--stop-after", type=int, metavar="N", help="stop after N experiences")
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    options = parser.parse_args()
    main(options.folder, options.stop_after, options.fast)

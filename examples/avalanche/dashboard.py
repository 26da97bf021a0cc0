"""A W&B dashboard of what is remembered, logged offline and synchronised later.

Run it with ``python examples/avalanche/dashboard.py``, without an account or a network; ``--fast``
only shows that it works. It ends by saying how the run gets to W&B when there is a network.
"""

import argparse
from pathlib import Path

import torch
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn

from avalanche_dgm import DGDMNPlugin, WandBLogger, sklearn_digits


def main(fast: bool) -> float:
    torch.manual_seed(0)
    benchmark = sklearn_digits(n_experiences=5, n_train_per_class=20 if fast else None)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, benchmark.n_classes)
    )

    # In place of Avalanche's own: the same arguments, and mode="offline" for a run on disk.
    logger = WandBLogger(
        "memories", "dgdmn", config={"method": "dgdmn"}, dir=Path.cwd(), mode="offline"
    )
    # Whatever metrics you like; what is remembered is logged without any.
    evaluator = EvaluationPlugin(
        accuracy_metrics(epoch=True, stream=True), loss_metrics(epoch=True), loggers=[logger]
    )
    few = {"generator_steps": 20, "learner_steps": 20} if fast else {}
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        train_mb_size=32,
        train_epochs=1 if fast else 20,
        eval_mb_size=512,
        plugins=[DGDMNPlugin(**few)],
        evaluator=evaluator,
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
        # The accuracy matrix grows by a row each time the test stream is evaluated.
        metrics = strategy.eval(benchmark.test_stream)
    accuracy = metrics["Top1_Acc_Stream/eval_phase/test_stream/Task000"]

    folder = Path(logger.run.dir).parent if logger.run is not None else None
    logger.close()
    print(f"final accuracy: {accuracy:.3f}")
    print(f"with a network and an account: wandb sync {folder}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    main(parser.parse_args().fast)

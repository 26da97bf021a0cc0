"""Stop after any experience and go on later, with the same result as without the stop.

Run ``python examples/avalanche/checkpoint.py --stop-after 3``, then again without the option;
``--fast`` only shows that it works.
"""

import argparse
from pathlib import Path

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn

# The same functions as in avalanche.checkpointing, which current PyTorch has broken.
from avalanche_dgm import DGDMNPlugin, maybe_load_checkpoint, save_checkpoint, sklearn_digits


def main(path: Path, stop_after: int | None, fast: bool) -> float:
    torch.manual_seed(0)
    benchmark = sklearn_digits(n_experiences=5, n_train_per_class=20 if fast else None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 10))

    path.parent.mkdir(parents=True, exist_ok=True)
    log = open(path.with_suffix(".log"), "a")  # noqa: SIM115 - stays open as long as the logger
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        train_mb_size=32,
        train_epochs=1 if fast else 20,
        eval_mb_size=512,
        plugins=[DGDMNPlugin(generator_steps=20, learner_steps=20) if fast else DGDMNPlugin()],
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[TextLogger(log)]),
    )

    # A checkpoint is a pickle, which can run code when it is loaded: load only files that you
    # trust. (save_memory and load_memory do without; they keep the plugin and the model's weights.)
    # Without a checkpoint nothing changes and ``done`` is 0. With one, the strategy is what it was:
    # model, optimiser, generators, short-term memories, random numbers.
    strategy, done = maybe_load_checkpoint(strategy, path)
    print(f"{done} of {len(benchmark.train_stream)} experiences are learned already")

    for experience in benchmark.train_stream[done:]:
        strategy.train(experience)
        save_checkpoint(strategy, path)
        done += 1
        if done == stop_after:
            print(f"stopped after {done} experiences; run this again to go on")
            break

    metrics = strategy.eval(benchmark.test_stream[:done])
    accuracy = metrics["Top1_Acc_Stream/eval_phase/test_stream/Task000"]
    print(f"final accuracy: {accuracy:.6f} on {done} experiences")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, default=Path("runs/checkpoint-example/strategy.pt"))
    parser.add_argument("--stop-after", type=int, metavar="N", help="stop after N experiences")
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    options = parser.parse_args()
    main(options.path, options.stop_after, options.fast)

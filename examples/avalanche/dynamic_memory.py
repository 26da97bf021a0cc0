"""Dynamic generative memory in Avalanche: a GAN that grows, and makes old digits for ever the same.

Run it with ``python examples/avalanche/dynamic_memory.py``; ``--fast`` only shows that it works.
"""

import argparse
import io

import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn

from avalanche_dgm import DynamicMemoryPlugin, memory_metrics, sklearn_digits

# A few steps of a small network make no digits; without sparsity no layer is left without units.
FAST = {"generator_steps": 5, "sparsity": 0.0, "width": 4, "discriminator_width": 4}


def main(fast: bool) -> float:
    torch.manual_seed(0)

    # Five experiences of two classes each. A class may come in one experience only.
    benchmark = sklearn_digits(n_experiences=5, n_train_per_class=20 if fast else None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 10))

    # The model learns, with replay. With classifier="discriminator" the GAN's discriminator answers
    # in its place.
    plugin = DynamicMemoryPlugin(**FAST) if fast else DynamicMemoryPlugin()

    evaluator = EvaluationPlugin(
        accuracy_metrics(experience=True, stream=True),
        memory_metrics(),
        loggers=[TextLogger(io.StringIO())],
    )
    strategy = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        train_mb_size=32,
        train_epochs=1 if fast else 20,
        eval_mb_size=512,
        plugins=[plugin],
        evaluator=evaluator,
    )

    for i, experience in enumerate(benchmark.train_stream):
        strategy.train(experience)
        metrics = strategy.eval(benchmark.test_stream[: i + 1])
        accuracy = metrics["Top1_Acc_Stream/eval_phase/test_stream/Task000"]
        size = f"{plugin.memory_bytes() / 1e3:,.0f} kB of memory"
        print(f"after {experience.task_name}: {accuracy:.3f} on all classes so far, {size}")

    # What is remembered of a class: images (n, 1, 8, 8) in the data's own units.
    threes = plugin.method.sample_class(3, 16)
    print(f"generated threes: {tuple(threes.shape)}")

    print(f"final accuracy: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    main(parser.parse_args().fast)

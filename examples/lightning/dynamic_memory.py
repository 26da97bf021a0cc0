"""Dynamic generative memory under a Lightning Trainer; the GAN's discriminator classifies.

Run it with ``python examples/lightning/dynamic_memory.py``; ``--fast`` only shows that it works.
"""

import argparse

from pytorch_lightning import seed_everything
from torch import nn

from avalanche_dgm import sklearn_digits
from avalanche_dgm.lightning import DynamicMemoryModule, StreamResult, fit_stream

# A few steps are not enough, and small networks make no digits.
FAST = {"generator_steps": 5, "sparsity": 0.0, "width": 4, "discriminator_width": 4}


def report(result: StreamResult) -> None:
    done = len(result)
    accuracy = result.accuracy[-1, :done].mean()
    size = result.memory_bytes[-1] / 1e6
    print(f"after {done} experiences: {accuracy:.3f} on all classes so far, {size:.1f} MB")


def main(fast: bool, devices: str) -> float:
    seed_everything(0, verbose=False)

    # Five experiences of two classes each. A class may come in one experience only.
    benchmark = sklearn_digits(n_experiences=5, n_train_per_class=20 if fast else None)

    # As in the paper the discriminator answers. The model only says how wide the answers are; with
    # classifier="learner" it would learn, with replay.
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    module = DynamicMemoryModule(model, classifier="discriminator", **(FAST if fast else {}))

    result = fit_stream(
        module,
        benchmark,
        trainer={"devices": devices, "enable_progress_bar": False},
        test="seen",
        after_experience=report,
    )

    # What is remembered of a class: images (n, 1, 8, 8) in the data's own units.
    threes = module.method.sample_class(3, 16)
    print(f"generated threes: {tuple(threes.shape)}")
    print(f"final accuracy: {result.average_accuracy:.3f}")
    return result.average_accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, to see that it works")
    parser.add_argument("--devices", default="1", help="how many, or auto")
    options = parser.parse_args()
    main(options.fast, options.devices)

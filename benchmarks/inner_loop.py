"""Time of the in-memory inner loop against the same loop written by hand in PyTorch.

Both train the default dense VAE on the same tensors for the same number of steps, in turn, so
that a machine whose speed drifts favours neither. Quote the ratio, not the seconds.

    python benchmarks/inner_loop.py --steps 300 --repeats 7
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from avalanche_dgm.fitting import Phase, fit
from avalanche_dgm.generators import VAE, choose_spec
from avalanche_dgm.optimizers import OptimizerSpec

BATCH = 128


def by_hand(vae: VAE, images: torch.Tensor, steps: int) -> float:
    """Trains as anybody would write it, and returns the seconds."""
    rng = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    started = time.perf_counter()
    done = 0
    while done < steps:
        order = torch.randperm(len(images), generator=rng)
        for index in order.split(BATCH):
            if done == steps:
                break
            loss = vae.negative_elbo(images[index], rng).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
    return time.perf_counter() - started


def by_fit(vae: VAE, images: torch.Tensor, steps: int) -> float:
    """Trains through `avalanche_dgm.fitting.fit`, and returns the seconds."""
    phase = Phase(
        "generator",
        vae,
        lambda batch, rng: vae.negative_elbo(batch[0], rng).mean(),
        OptimizerSpec("adam", 1e-3),
        steps,
        BATCH,
        (images,),
    )
    return fit(phase, torch.Generator().manual_seed(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--size", type=int, default=28, help="height and width of the images")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images = torch.rand(options.samples, 1, options.size, options.size)
    ratios = []
    for repeat in range(options.repeats + 1):
        torch.manual_seed(repeat)
        first = VAE(choose_spec(images))
        second = VAE(first.spec)
        second.load_state_dict(first.state_dict())
        ours = by_fit(first, images, options.steps)
        theirs = by_hand(second, images, options.steps)
        same = all(
            torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
        )
        if repeat:  # The first pair warms up.
            ratios.append(ours / theirs)
            print(f"fit {ours:.2f} s, by hand {theirs:.2f} s, ratio {ratios[-1]:.3f}, same {same}")
    print(
        f"ratio: median {statistics.median(ratios):.3f},"
        f" min {min(ratios):.3f}, max {max(ratios):.3f}"
    )


if __name__ == "__main__":
    main()

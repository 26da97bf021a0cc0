"""Time of an iteration of dynamic memory against the same written out in plain PyTorch.

The settings and networks are the authors' for MNIST (ngf 20, ndf 32, batches of 64, as many steps
on classes as there are classes). The plain loop is what one would write for this one network: two
optimisers, masks and gradient masks in place, no package. Both learn the same task of a stream, in
turn, so that a machine whose speed drifts favours neither. Quote the ratio, not the seconds.

    python benchmarks/gan_iteration.py --task 2 --rounds 20 --repeats 5
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.fitting import fit
from avalanche_dgm.methods import DynamicMemory
from avalanche_dgm.methods.dynamic_memory import paper_hyper

BATCH, LATENT, SMAX, SPARSITY, EPOCHS = 64, 128, 1e5, 0.01, 10


class PlainGenerator(nn.Module):
    """Three masked transposed convolutions and a head, for the task that is learned."""

    def __init__(self, widths: list[int], reserved: list[Tensor]) -> None:
        super().__init__()
        sizes = [LATENT, *widths]
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, 1 if i == 0 else 2, 0 if i == 0 else 1, bias=False)
            for i, (a, b) in enumerate(pairwise(sizes))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in widths)
        self.embeddings = nn.ParameterList(torch.zeros(n) for n in widths)
        self.head = nn.ConvTranspose2d(widths[-1], 1, 4, 2, 1, bias=False)
        self.reserved = reserved

    def masks(self, scale: float) -> list[Tensor]:
        """The soft masks (units,) of the layers."""
        return [torch.sigmoid(scale * e) for e in self.embeddings]

    def forward(self, z: Tensor, scale: float) -> Tensor:
        """Images (n, 1, 32, 32) of noise (n, 128)."""
        x = z[:, :, None, None]
        parts = zip(self.layers, self.norms, self.masks(scale), strict=True)
        for layer, norm, mask in parts:
            x = F.relu(norm(layer(x) * mask.view(-1, 1, 1)))
        return torch.tanh(self.head(x))

    def sparsity(self, scale: float) -> Tensor:
        """The share of free units that are used."""
        free = [1.0 - r.float() for r in self.reserved]
        masks = self.masks(scale)
        used = sum((m * f).sum() for m, f in zip(masks, free, strict=True))
        return used / sum(f.sum() for f in free)

    def protect(self, scale: float) -> None:
        """Stops the gradients of what is reserved, and compensates those of the masks."""
        for layer, kept in zip(self.layers, self.reserved, strict=True):
            layer.weight.grad *= (~kept).float().view(1, -1, 1, 1)
        for e in self.embeddings:
            top = torch.cosh(torch.clamp(scale * e.data, -50, 50)) + 1
            e.grad *= top / (torch.cosh(e.data) + 1)


class PlainDiscriminator(nn.Module):
    """Three convolutions and two heads."""

    def __init__(self, n_classes: int, ndf: int = 32) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, ndf, 5, 2, 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(ndf, 2 * ndf, 5, 2, 2),
            nn.BatchNorm2d(2 * ndf),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * ndf, 4 * ndf, 5, 2, 2),
            nn.BatchNorm2d(4 * ndf),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        self.real = nn.Linear(64 * ndf, 1)
        self.classes = nn.Linear(64 * ndf, n_classes)


def by_hand(
    generator: PlainGenerator,
    discriminator: PlainDiscriminator,
    images: Tensor,
    old: Tensor,
    rounds: int,
) -> float:
    """Trains as anybody would write it, and returns the seconds."""
    torch.manual_seed(0)
    n_old = discriminator.classes.out_features - 1
    labels = torch.arange(n_old).repeat_interleave(len(old) // max(n_old, 1))
    for_discriminator = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    for_generator = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    generator.train()
    discriminator.train()

    def noise(n: int) -> Tensor:
        z = torch.randn(n, LATENT)
        z[:, 0] = 1.0
        return z

    started = time.perf_counter()
    for number in range(rounds):
        scale = 1 / SMAX + (SMAX - 1 / SMAX) * (number * EPOCHS // rounds) / EPOCHS
        for _ in range(n_old + 1):
            n_new = BATCH // (n_old + 1)
            x = images[torch.randint(len(images), (n_new,))]
            y = torch.full((n_new,), n_old)
            if n_old:
                index = torch.randint(len(old), (BATCH - n_new,))
                x, y = torch.cat([x, old[index]]), torch.cat([y, labels[index]])
            loss = F.cross_entropy(discriminator.classes(discriminator.trunk(x)), y)
            for_discriminator.zero_grad()
            loss.backward()
            for_discriminator.step()
        x = images[torch.randint(len(images), (BATCH,))]
        fake = generator(noise(BATCH), scale).detach()
        share = torch.rand(BATCH, 1, 1, 1)
        mixed = (share * x + (1 - share) * fake).requires_grad_(True)
        out = discriminator.real(discriminator.trunk(mixed))
        (slope,) = torch.autograd.grad(out.sum(), mixed, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        loss = (
            discriminator.real(discriminator.trunk(fake)).mean()
            - discriminator.real(discriminator.trunk(x)).mean()
        )
        for_discriminator.zero_grad()
        (loss + penalty).backward()
        for_discriminator.step()
        for p in discriminator.parameters():
            p.requires_grad_(False)
        fake = generator(noise(BATCH), scale)
        loss = -discriminator.real(
            discriminator.trunk(fake)
        ).mean() + SPARSITY * generator.sparsity(scale)
        for_generator.zero_grad()
        loss.backward()
        generator.protect(scale)
        for_generator.step()
        for p in discriminator.parameters():
            p.requires_grad_(True)
    return time.perf_counter() - started


def experience(label: int, n: int) -> ExperienceData:
    """Noise in the shape of MNIST at 32x32: what it shows does not change what it costs."""
    images = torch.rand(n, 1, 32, 32)
    zeros = torch.zeros(n, dtype=torch.int64)
    return ExperienceData(images, zeros + label, zeros, str(label), str(label))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", type=int, default=2, help="tasks that are known already")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    n = 1280

    def learner(rounds: int) -> DynamicMemory:
        hyper = {**paper_hyper("mnist"), "generator_epochs": None, "generator_steps": rounds}
        if (hyper["batch_size"], hyper["sparsity"], hyper["smax"]) != (BATCH, SPARSITY, SMAX):
            raise RuntimeError("The plain loop has other settings than the package.")
        return DynamicMemory(seed=0, **hyper).to("cpu")

    ratios = []
    for repeat in range(options.repeats + 1):
        method = learner(options.rounds)
        method.attach(nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)), task_aware=False)
        for label in range(options.task):
            data = experience(label, n)
            method.begin(data)
            generator = method.generator.network
            with torch.no_grad():  # About half of the units, as a trained task takes.
                for mask in generator.masks.values():
                    mask.embedding.copy_(torch.rand_like(mask.embedding) - 0.5)
            method.end(data)
        data = experience(options.task, n)
        method.begin(data)
        phase = next(iter(method.before_learning(data)))
        started = time.perf_counter()
        fit(phase, method.rng)
        ours = time.perf_counter() - started
        groups = method.generator.network.groups.values()
        reserved = [g.mask.reserved for g in groups if g.mask is not None]
        plain = PlainGenerator([g.width for g in groups], reserved)
        images = method.generator.scaler.transform(data.images)
        old = images[:1].expand(n * options.task, -1, -1, -1).contiguous()
        theirs = by_hand(plain, PlainDiscriminator(options.task + 1), images, old, options.rounds)
        if repeat:  # The first pair warms up.
            ratios.append(ours / theirs)
            print(f"ours {ours:.2f} s, by hand {theirs:.2f} s, ratio {ratios[-1]:.3f}")
    print(
        f"ratio: median {statistics.median(ratios):.3f},"
        f" min {min(ratios):.3f}, max {max(ratios):.3f}"
    )


if __name__ == "__main__":
    main()

"""One change of a deep generative memory: what comes in, what was known, how they are weighed.

Kamra et al. 2017, Section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.fitting import Phase, epochs_to_steps
from avalanche_dgm.generators import VAE
from avalanche_dgm.memories.budget import Budget, new_fraction, replay_budget
from avalanche_dgm.memories.generative import CHUNK, DeepGenerativeMemory

#: Codes drawn of each old class when its density is fitted anew.
REFIT_SAMPLES = 512


class Consolidation:
    """Lets a memory learn new tasks and keep the old ones.

    Run the `generator_phase`, then `absorb`; what else learns in between is the caller's.

    Args:
        memory: The memory.
        incoming: Samples of one or more tasks, at least one.
        previous: Snapshot of the memory from before, or ``None`` if nothing is known.

    Attributes:
        fraction: The share eta of incoming samples in what is learned.
    """

    def __init__(
        self,
        memory: DeepGenerativeMemory,
        incoming: Sequence[ExperienceData],
        previous: DeepGenerativeMemory | None,
    ) -> None:
        self.memory, self.incoming, self.previous = memory, list(incoming), previous
        self.fraction = self._fraction()

    @property
    def _tasks(self) -> int:
        """Incoming tasks; one that was met several times is promised no more than the others."""
        return len({data.key for data in self.incoming})

    def _fraction(self) -> float:
        memory, s = self.memory, self.memory.settings
        if not len(memory.tasks):
            return 1.0
        kappa = s.kappa * self._tasks
        if s.count == "tasks":
            new, old = sum(data.times for data in self.incoming), memory.tasks.total
        else:
            new = sum(len(data.classes) for data in self.incoming)
            old = len(memory.built()[1].classes)
        return max(new_fraction(new=new, old=old, kappa=0.0), min(kappa, 1.0))

    def budget(self) -> Budget:
        """Applies the replay rule."""
        return replay_budget(
            new=sum(data.times for data in self.incoming),
            old=self.memory.tasks.total,
            n_incoming=sum(len(data) for data in self.incoming),
            n_max=self.memory.settings.n_max,
            kappa=self.memory.settings.kappa,
            tasks=self._tasks,
        )

    def generator_phase(
        self,
        rng: torch.Generator,
        *,
        name: str = "generator",
        steps: int | None = None,
        pool: Replay | None = None,
    ) -> Phase:
        """Returns the generator's training on incoming samples and on what it knew.

        Args:
            rng: Generator on the memory's device, for the samples that are drawn beforehand.
            name: For the progress bar.
            steps: Optimiser steps, instead of the settings'.
            pool: Samples already drawn of what was known (rehearsal); ``None`` draws them.
        """
        s, (generator, _) = self.memory.settings, self.memory.built()
        images, previous, fraction = self._images(rng, pool), self.previous, self.fraction
        if s.consolidation == "rehearsal":
            previous = None

        def loss(batch: tuple[Tensor, ...], rng: torch.Generator) -> Tensor:
            if previous is None:
                return generator.negative_elbo(batch[0], rng, kl_weight=s.kl_weight).mean()
            codes, old_images, _ = previous.imagine(s.batch_size, rng)
            # Decoding keeps each old code's image; the bound keeps the encoder able to read it.
            # Each takes every other sample, so that both see all classes.
            decoding = generator.decoding_loss(codes[::2], old_images[::2]).mean()
            together = torch.cat([batch[0], old_images[1::2]])
            bounds = generator.negative_elbo(together, rng, kl_weight=s.kl_weight)
            new, bound = bounds.split([len(batch[0]), len(together) - len(batch[0])])
            return fraction * new.mean() + (1 - fraction) * 0.5 * (decoding + bound.mean())

        if steps is None:
            steps = s.generator_steps
            if s.generator_epochs is not None:
                steps = epochs_to_steps(s.generator_epochs, len(images), s.batch_size)
        return Phase(name, generator, loss, s.generator_optimizer, steps, s.batch_size, (images,))

    def _images(self, rng: torch.Generator, pool: Replay | None) -> Tensor:
        """The images that batches are taken from."""
        s = self.memory.settings
        images = torch.cat([data.images for data in self.incoming])
        if s.consolidation == "rehearsal" and self.previous is not None:
            if pool is not None:
                return torch.cat([images, pool.images])
            budget = self.budget()
            kept = images[choose(len(images), budget.n_incoming, rng)]
            return torch.cat([kept, generate(self.previous, budget.n_generated, rng)])
        if s.n_max is not None:
            # Aligned replay keeps nothing beyond a step, so only what comes in is limited.
            images = images[choose(len(images), s.n_max, rng)]
        return images

    @torch.no_grad()
    def absorb(self, rng: torch.Generator) -> None:
        """Notes what was learned: densities of the codes, and the dictionary.

        Args:
            rng: Generator on the memory's device.
        """
        memory, (generator, density) = self.memory, self.memory.built()
        if self.previous is not None and memory.settings.consolidation == "rehearsal":
            # The codes of old classes have moved: fit what the new encoder makes of their images.
            old_generator, old = self.previous.built()
            for row, count in enumerate(old.seen.tolist()):
                rows = torch.full((REFIT_SAMPLES,), row, device=old.means.device)
                means, log_variances = generator.encode(old_generator.decode(old.sample(rows, rng)))
                variances = log_variances.double().exp()
                density.update(means, rows, variances=variances, merge=False, count=count)
        for data in self.incoming:
            index = memory.tasks.index(data.key)
            means, log_variances = encode(generator, data.images)
            density.add(
                means,
                data.tasks,
                data.labels,
                group=index,
                variances=log_variances.double().exp(),
                # Replay has kept the codes of what was known of the task.
                merge=self.previous is not None,
            )
            memory.tasks.add(data.key, data.times)


def generate(memory: DeepGenerativeMemory, n: int, rng: torch.Generator) -> Tensor:
    """Draws any number of images, a chunk at a time."""
    parts = [memory.imagine(len(part), rng)[1] for part in torch.arange(n).split(CHUNK)]
    if not parts:
        shape = memory.shape or ()
        return torch.empty(0, *shape, device=rng.device)
    return torch.cat(parts)


@torch.no_grad()
def encode(generator: VAE, images: Tensor) -> tuple[Tensor, Tensor]:
    """Encodes any number of images, a chunk at a time.

    Returns:
        Means and log-variances, each (N, z).
    """
    means, log_variances = zip(*map(generator.encode, images.split(CHUNK)), strict=True)
    return torch.cat(means), torch.cat(log_variances)


def choose(n: int, k: int, rng: torch.Generator) -> Tensor:
    """Positions of ``k`` of ``n`` samples, or of all if there are fewer."""
    return torch.randperm(n, generator=rng, device=rng.device)[:k]

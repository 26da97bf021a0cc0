"""Sleep: consolidation of the short-term into the long-term memory (Kamra et al. 2017, Sec. 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from avalanche_dgm.data import ExperienceData, Replay, split_budget
from avalanche_dgm.errors import required
from avalanche_dgm.fitting import Phase, epochs_to_steps
from avalanche_dgm.losses import Criterion, distillation
from avalanche_dgm.memories.budget import choose
from avalanche_dgm.memories.dual import DualMemory
from avalanche_dgm.modules import Frozen

#: Minimum number of samples drawn of a task, without a budget.
FEWEST_SAMPLES = 2000


class Sleep:
    """One consolidation. Run the `phases` in order, then `wake`.

    Args:
        dual: The dual memory.
        rng: Generator on its device.
        on_replay: Called with each replay batch of the learner and the number of its outputs.
        hard_loss: Loss on samples with hard labels, averaged over samples.
    """

    def __init__(
        self,
        dual: DualMemory,
        rng: torch.Generator,
        *,
        on_replay: Callable[[Replay, int], None],
        hard_loss: Criterion = F.cross_entropy,
    ) -> None:
        self.dual, self.rng, settings = dual, rng, dual.settings
        self._on_replay, self._hard_loss = on_replay, hard_loss
        self._replays: list[Replay] = []
        self._incoming: list[ExperienceData] = []
        paper = dual.ltm.generator.rehearses
        for memory in dual.sttms():
            n = memory.n_seen if paper else max(memory.n_seen, FEWEST_SAMPLES)
            if settings.n_max is not None:
                n = min(n, max(1, settings.n_max // dual.occupancy))
            replay = memory.sample(n, rng, reconstruct=settings.reconstruct)
            self._add(replay, memory.key, memory.tasks.total())
        for data in dual.waiting():
            if settings.n_max is not None and not paper:
                share = max(1, settings.n_max // dual.occupancy)
                data = data.take(choose(len(data), share, rng))
            self._add(Replay(data.images, data.labels, data.tasks), data.key, data.times)
        self._previous = Frozen(dual.ltm).module if dual.ltm.tasks else None
        #: Generated samples of old tasks, for the training of generator and learner.
        self._old: tuple[Tensor, Tensor] | None = None
        self._pool: Replay | None = None
        if paper:
            self._apply_budget()
        self._fraction = dual.ltm.fraction(self._incoming)

    def _add(self, replay: Replay, key: str, times: int) -> None:
        self._replays.append(replay)
        self._incoming.append(
            ExperienceData(replay.images, replay.labels, replay.tasks, key, key, times)
        )

    def _apply_budget(self) -> None:
        """Subsamples incoming samples and generates old ones, by the replay rule."""
        budget = self.dual.ltm.budget(self._incoming)
        shares = split_budget(budget.n_incoming, [len(data) for data in self._incoming])
        for i, n in enumerate(shares):
            kept = choose(len(self._incoming[i]), n, self.rng)
            self._incoming[i] = self._incoming[i].take(kept)
            self._replays[i] = self._replays[i][kept]
        if self._previous is not None and budget.n_generated:
            self._old = self._previous.generate(budget.n_generated, self.rng)
            reconstruct = self.dual.settings.reconstruct
            self._pool = self._previous.label(*self._old, reconstruct=reconstruct)

    @property
    def name(self) -> str:
        """Name for progress bars."""
        names = [data.key for data in self._incoming]
        # A key may contain commas, such as "classes 0, 1".
        between = "; " if any("," in name for name in names) else ", "
        return f"sleep: consolidating tasks {between.join(names)}"

    def phases(self) -> Iterator[Phase]:
        """Yields the long-term generator's training, then the long-term learner's."""
        name = f"{self.name} (generator)"
        yield from self.dual.ltm.learn(
            self._incoming, self.rng, previous=self._previous, old=self._old, name=name
        )
        yield self._learner_phase()

    def _learner_phase(self) -> Phase:
        s, ltm = self.dual.settings, self.dual.ltm
        fraction = self._fraction
        everything = Replay.cat([*self._replays, *([self._pool] if self._pool else [])])
        # Old samples are either in the pool or drawn for each step.
        previous = self._previous if not ltm.generator.rehearses else None

        def loss(batch: tuple[Tensor, ...], rng: torch.Generator) -> Tensor:
            images, labels, tasks = batch[:3]
            targets = batch[3] if len(batch) > 3 else None
            if previous is None:
                return self._loss(ltm.logits(images, tasks), labels, targets)
            old = previous.sample(s.batch_size, rng, reconstruct=s.reconstruct)
            # One forward pass, so that BatchNorm uses old and new samples together.
            together = torch.cat([images, self.dual.inputs(ltm, old.images)])
            logits = ltm.logits(together, torch.cat([tasks, old.tasks]))
            self._on_replay(old, logits.shape[1])
            new_logits, old_logits = logits.split([len(images), len(old)])
            new_loss = self._loss(new_logits, labels, targets)
            old_loss = self._loss(old_logits, old.labels, old.targets)
            return fraction * new_loss + (1 - fraction) * old_loss

        # Once for all epochs, as the long-term generator is trained already.
        images = self.dual.inputs(ltm, everything.images)
        data: tuple[Tensor, ...] = (images, everything.labels, everything.tasks)
        if everything.targets is not None:
            data = (*data, everything.targets)
        n, size = len(everything), s.batch_size
        steps = epochs_to_steps(s.learner_epochs, n, size, otherwise=s.learner_steps)
        learner = required(ltm.learner, "learner", "attach")
        if self._pool is not None:
            self._on_replay(self._pool, int(everything.labels.max()) + 1)
        replays = self._pool is not None or previous is not None
        name = f"{self.name} ({'learner, with replay' if replays else 'learner'})"
        return Phase(name, learner, loss, s.learner_optimizer, steps, size, data)

    def _loss(self, logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        if targets is None:
            return self._hard_loss(logits, labels)
        return distillation(logits, targets, temperature=self.dual.settings.temperature).mean()

    def wake(self) -> None:
        """Ends sleep: clears the short-term memory."""
        for data in self._incoming:
            self.dual.close(data.key)
        del self.dual.stored[:]
        self.dual.sleeps += 1

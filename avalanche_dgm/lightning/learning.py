"""Training of the classifier on one experience, with a method's replay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import Replay, Step
from avalanche_dgm.lightning.batches import Batches, TensorBatches
from avalanche_dgm.lightning.evaluation import StrategyView
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks
from avalanche_dgm.lightning.stages import Optimization, Schedule, Stage
from avalanche_dgm.methods import Method
from avalanche_dgm.methods.abilities import LatentInputs


class AlternatingBatches:
    """Yields each batch followed by an empty one, which stands for a step on replay alone.

    Args:
        batches: The batches of new samples.
        done: Steps already taken of the first pair, 0 or 1.
    """

    batch_sampler = None

    def __init__(self, batches: Batches, done: int) -> None:
        self.batches, self._done = batches, done

    @property
    def sampler(self) -> AlternatingBatches:
        """Itself, as Lightning calls ``set_epoch`` on a loader's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; a new one starts at its first batch."""
        if epoch != self.batches.epoch:
            self._done = 0
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return 2 * len(self.batches) - self._done

    def __iter__(self) -> Iterator[Any]:
        skip = self._done
        for batch in self.batches:
            if not skip:
                yield batch
            skip = 0
            yield ()


class LearningStage(Stage):
    """Training of the classifier on one experience, all its epochs.

    Args:
        name: Name shown in progress bars.
        method: The method whose replay is trained with each batch.
        learner: The classifier to train, `Method.active`.
        optimizer: Function from the learner and ``fused`` to its optimiser, made or updated.
        schedule: Function from the optimiser, the number of its steps and of steps per batch to a
            learning-rate schedule, or to ``None``.
        validation: Batches of the validation experience, this process's shards; may be empty.
        batches: The experience's batches: full ones if in memory, this process's shards otherwise.
        epochs: Passes over the experience.
        width: Number of outputs of the user's model.
        criterion: The loss on new samples, from logits and labels.
        trainer: The Trainer that will run it.
        view: The strategy that Avalanche's metrics see, or ``None`` without metrics.

    Attributes:
        iterations: Batches of new samples trained on so far.
        shown: Samples of these batches, over all devices.
    """

    def __init__(
        self,
        name: str,
        *,
        method: Method,
        learner: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[[torch.optim.Optimizer, int, int], Schedule],
        batches: Batches,
        validation: Sequence[Batches] = (),
        epochs: int,
        width: int,
        criterion: Any,
        trainer: pl.Trainer,
        view: StrategyView | None,
    ) -> None:
        super().__init__(name, log_prefix="train", module=learner, epochs=epochs)
        self.method, self.batches, self.width = method, batches, width
        self._validation = list(validation)
        self.criterion, self.view = criterion, view
        self._optimizer, self._schedule = optimizer, schedule
        self._n_batches = len(batches)
        self._trainer, self._ranks = trainer, Ranks.of(trainer)
        self._whole = isinstance(batches, TensorBatches)
        self._correct: Tensor | None = None
        self._seen = 0
        self.iterations, self.shown = 0, 0
        self._alternates = isinstance(method, LatentInputs) and method.alternates
        self._turns = 2 if self._alternates else 1
        self._last, self._on_replay = 0, False
        self._replayed = 0

    def loader(self) -> Iterable[Any]:
        """The epoch's batches."""
        self.batches.set_epoch(self.epoch)
        self.batches.start, done = divmod(self.batch, self._turns)
        if self.view is not None:
            self.view.dataloader = self.batches
        return AlternatingBatches(self.batches, done) if self._alternates else self.batches

    def val_loader(self) -> Any:
        """Batches of the validation experience, or ``None``."""
        return self._validation or None

    def optimization(self, *, fused: bool) -> Optimization:
        """The module's optimiser, kept across experiences, and a new schedule."""
        optimizer = self._optimizer(self.module, fused=fused)
        accumulate = self._trainer.accumulate_grad_batches
        steps = self.epochs * -(-self._turns * self._n_batches // accumulate)
        turns = self._turns if accumulate == 1 else 1
        return optimizer, self._schedule(optimizer, steps, turns)

    def loss(self, batch: Any) -> Tensor:
        """The loss of a batch and its replay; for an empty batch, the loss of replay alone."""
        self._on_replay = not len(batch)
        return self._replay_loss() if self._on_replay else self._new_loss(batch)

    def _replay_loss(self) -> Tensor:
        method = self.method
        replay = self._replay(self._last)
        if replay is None:
            raise RuntimeError("The method alternates with replay, but has none.")
        images, tasks = replay.images[:0], replay.tasks[:0]
        logits = method(images, tasks, width=self.width, replay=replay)
        self._count(replay, logits.shape[1])
        step = Step(
            images,
            tasks,
            logits[:0],
            new=None,
            n=self._last,
            replay=replay,
            replay_logits=logits,
            replay_share=self._ranks.loss_weight(self._replayed),
        )
        loss = method.loss(step)
        if loss is None:
            raise RuntimeError("The method alternates with replay, but has no loss for it.")
        return loss

    def _replay(self, n: int) -> Replay | None:
        """Samples the same replay in every process and returns this process's shard of it.

        Args:
            n: Size of the batch over all processes.
        """
        drawn = self.method.replay(n)
        if drawn is None:
            return None
        self._replayed = len(drawn)
        return drawn[self._ranks.shard(len(drawn))]

    def _count(self, replay: Replay, width: int) -> None:
        # Replay too small to shard is the same in every process: rank 0 counts it.
        once = self._ranks.can_shard(self._replayed) or self._ranks.rank == 0
        self.method.stats.count(replay if once else replay[:0], width)

    def _new_loss(self, batch: Any) -> Tensor:
        method, view, ranks = self.method, self.view, self._ranks
        if self._whole:
            n = len(batch[0])
            images, labels, tasks = (column[ranks.shard(n)] for column in batch)
        else:
            images, labels, tasks = batch
            n = self.batches.sizes[self.batch // self._turns - self.batches.start]
        if view is not None:
            whole = batch if self._whole else [ranks.gather(self._trainer, c, n) for c in batch]
            view.mbatch = list(whole)
            view.fire("before_training_iteration")
            view.loss = torch.zeros(1, device=images.device)
            view.fire("before_forward")
        self._last, own = n, len(images)
        replay = None if self._alternates else self._replay(n)
        logits = method(images, tasks, width=self.width, replay=replay)
        answers = logits[:own]
        if view is not None:
            view.mb_output = ranks.gather(self._trainer, answers.detach(), n)
            view.fire("after_forward")
        weight = ranks.loss_weight(n, sums=method.criterion.scale.sums)
        loss = torch.zeros(1, device=images.device)
        loss = loss + self._new(answers, labels, weight)
        new = loss
        if replay is not None:
            self._count(replay, logits.shape[1])
            # Computed again, as in Avalanche's loop, so that gradients are equal bit by bit.
            new = self._new(answers, labels, weight)
        added = method.loss(
            Step(
                images,
                tasks,
                answers,
                new=new,
                n=n,
                replay=replay,
                replay_logits=None if replay is None else logits[own:],
                share=ranks.loss_weight(n),
                replay_share=1.0 if replay is None else ranks.loss_weight(self._replayed),
            )
        )
        if added is not None:
            loss = loss + added
        if view is not None:
            view.loss = self._trainer.strategy.reduce(loss.detach().clone(), reduce_op="mean")
            view.fire("before_backward")
        correct = (answers.detach().argmax(dim=1) == labels).sum()
        self._correct = correct if self._correct is None else self._correct + correct
        self._seen += own
        return loss.sum()

    def _new(self, answers: Tensor, labels: Tensor, weight: float) -> Tensor:
        new = self.criterion(answers, labels)
        return new if weight == 1.0 else new * weight

    def hook(self, name: str) -> None:
        """Counts iterations and calls Avalanche's metrics."""
        if name == "after_training_iteration" and not self._on_replay:
            self.iterations, self.shown = self.iterations + 1, self.shown + self._last
        # For Avalanche, a step on replay alone belongs to the iteration before it.
        within = self._on_replay and "epoch" not in name
        if self.view is not None and not within:
            self.view.fire(name)
            if self.view.stops:
                self._trainer.should_stop = True

    def epoch_means(self) -> dict[str, Tensor]:
        """Mean loss and accuracy on new samples over the epoch."""
        correct = self._correct if self._correct is not None else torch.tensor(0)
        return {**super().epoch_means(), "train/accuracy": correct.float() / max(self._seen, 1)}

    def end_epoch(self) -> None:
        """See `Stage.end_epoch`."""
        super().end_epoch()
        self._correct, self._seen = None, 0

    def state(self) -> dict[str, Any]:
        """See `Stage.state`."""
        counts = {"iterations": self.iterations, "shown": self.shown, "seen": self._seen}
        return {**super().state(), **counts, "correct": self._correct, "last": self._last}

    def set_state(self, state: dict[str, Any]) -> None:
        """See `Stage.set_state`."""
        super().set_state(state)
        self._correct, self._seen = self._placed(state["correct"]), state["seen"]
        self._last = state["last"]
        self.iterations, self.shown = state["iterations"], state["shown"]

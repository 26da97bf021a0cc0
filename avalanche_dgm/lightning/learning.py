"""Training of the classifier on one experience, with a method's replay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import Replay, Step
from avalanche_dgm.lightning.batches import Batches
from avalanche_dgm.lightning.evaluation import StrategyView
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks
from avalanche_dgm.lightning.stages import Optimization, Stage
from avalanche_dgm.methods.abilities import LatentInputs
from avalanche_dgm.stopping import TrainingTarget

if TYPE_CHECKING:
    from avalanche_dgm.lightning.module import MethodModule


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
        module: The method whose replay is trained with each batch, criterion and optimiser.
        learner: The classifier to train, `Method.active`.
        batches: The experience's batches.
        validation: Batches of the validation experience, this process's shards; may be empty.
        epochs: Passes over the experience; with ``until`` the most.
        until: Training accuracy of an epoch that ends the experience, or ``None``; if the module's
            learning rate falls on a cosine, it does so then.
        width: Number of outputs of the user's model.
        trainer: The Trainer that will run it.
        view: The strategy that Avalanche's metrics see.

    Attributes:
        iterations: Batches of new samples trained on so far.
        shown: Samples of these batches, over all devices.
    """

    def __init__(
        self,
        name: str,
        module: MethodModule,
        learner: nn.Module,
        *,
        batches: Batches,
        validation: Sequence[Batches] = (),
        epochs: int,
        until: float | None = None,
        width: int,
        trainer: pl.Trainer,
        view: StrategyView,
    ) -> None:
        super().__init__(name, log_prefix="train", module=learner, epochs=epochs)
        self.method, self.batches, self.width = module.method, batches, width
        self._validation = list(validation)
        self.criterion, self.view = module.criterion, view
        # What is learned first is not put back.
        self.restores = module.method.experiences > 0
        self._optimizer, self._schedule = module.learning_optimizer, module.learning_schedule
        self._rate: float | None = None if until is None else module.settling_rate
        self._target: TrainingTarget | None = None
        if until is not None:
            self._target = TrainingTarget(until, settle=self._rate is not None)
            self._target.begin(epochs)
        self._n_batches = len(batches)
        self._trainer, self._ranks = trainer, Ranks.of(trainer)
        self.iterations, self.shown = 0, 0
        method = self.method
        self._alternates = isinstance(method, LatentInputs) and method.alternates
        self._turns = 2 if self._alternates else 1
        self._last, self._on_replay = 0, False
        self._replayed = 0

    def loader(self) -> Iterable[Any]:
        """The epoch's batches."""
        self.batches.set_epoch(self.epoch)
        self.batches.start, done = divmod(self.batch, self._turns)
        self.view.dataloader = self.batches
        return AlternatingBatches(self.batches, done) if self._alternates else self.batches

    def val_loader(self) -> Any:
        """Batches of the validation experience, or ``None``."""
        return self._validation or None

    def optimization(self, *, fused: bool) -> Optimization:
        """The module's optimiser, kept across experiences, and a new schedule."""
        optimizer = self._optimizer(self.module, fused=fused)
        if self._target is not None:
            return optimizer, None
        accumulate = self._trainer.accumulate_grad_batches
        steps = self.epochs * -(-self._turns * self._n_batches // accumulate)
        turns = self._turns if accumulate == 1 else 1
        return optimizer, self._schedule(optimizer, steps, turns)

    def loss(self, batch: Any) -> Tensor:
        """The loss of a batch and its replay; for an empty batch, the loss of replay alone."""
        self._set_rate()
        self._on_replay = not len(batch)
        if self._on_replay:
            return self._replay_loss()
        method, view, ranks = self.method, self.view, self._ranks
        method.stats.steps += 1
        self._last = n = self.batches.sizes[self.batch // self._turns - self.batches.start]
        images, labels, tasks = self.batches.shard(batch, n)
        own = len(images)
        view.show_batch(batch, n, shard=not self.batches.whole)
        view.fire("before_training_iteration")
        view.loss = torch.zeros(1, device=images.device)
        view.fire("before_forward")
        replay = None if self._alternates else self._replay(n)
        logits = method(images, tasks, width=self.width, replay=replay)
        answers = logits[:own]
        view.show_outputs(answers, n)
        view.fire("after_forward")
        weight = ranks.loss_weight(n, sums=method.criterion.scale.sums)
        loss = torch.zeros(1, device=images.device) + self.criterion(answers, labels) * weight
        new = loss
        if replay is not None:
            self._count(replay, logits.shape[1])
            # Computed again, as in Avalanche's loop, so that gradients are equal bit by bit.
            new = self.criterion(answers, labels) * weight
        step = Step(
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
        added = method.loss(step)
        if added is not None:
            loss = loss + added
        view.show_loss(loss)
        view.fire("before_backward")
        correct = (answers.detach().argmax(dim=1) == labels).sum()
        self.means.add("train/accuracy", correct, own)
        return loss.sum()

    def _replay_loss(self) -> Tensor:
        method, replay = self.method, self._replay(self._last)
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
        """This process's shard of the replay for a batch of ``n``, the same in every process."""
        drawn = self.method.replay(n)
        if drawn is None:
            return None
        self._replayed = len(drawn)
        return drawn[self._ranks.shard(len(drawn))]

    def _count(self, replay: Replay, width: int) -> None:
        # Replay too small to shard is the same in every process: rank 0 counts it.
        once = self._ranks.can_shard(self._replayed) or self._ranks.rank == 0
        self.method.stats.count(replay if once else replay[:0], width)

    def _set_rate(self) -> None:
        """Lets the learning rate fall once the target was reached."""
        if self._target is None or self._rate is None:
            return
        batch = self.batch // self._turns
        rate = self._rate * self._target.factor(self.epoch, batch, self._n_batches)
        for group in self._trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def _look_at_target(self) -> None:
        """Ends the stage after the epoch that reached the target, and those it settles in."""
        if self._target is None:
            return
        accuracy = self.epoch_means()["train/accuracy"].to(self._trainer.strategy.root_device)
        # The same in every process.
        reduced = self._trainer.strategy.reduce(accuracy.double(), reduce_op="mean")
        self._target.end_epoch(self.epoch + 1, float(reduced))
        self.epochs = self._target.last
        self._trainer.fit_loop.max_epochs = self.epochs

    def hook(self, name: str) -> None:
        """Counts iterations and calls Avalanche's metrics."""
        if name == "after_training_iteration" and not self._on_replay:
            self.iterations, self.shown = self.iterations + 1, self.shown + self._last
        if name == "after_training_epoch":
            self._look_at_target()
        # For Avalanche, a step on replay alone belongs to the iteration before it.
        within = self._on_replay and "epoch" not in name
        if not within:
            self.view.fire(name)
            if self.view.stops:
                self._trainer.should_stop = True

    def epoch_means(self) -> dict[str, Tensor]:
        """Mean loss and accuracy on new samples over the epoch."""
        return {"train/accuracy": torch.tensor(0.0), **super().epoch_means()}

    def state(self) -> dict[str, Any]:
        """See `Stage.state`."""
        counts = {"iterations": self.iterations, "shown": self.shown}
        target = None if self._target is None else self._target.state()
        return {**super().state(), **counts, "last": self._last, "target": target}

    def set_state(self, state: dict[str, Any]) -> None:
        """See `Stage.set_state`."""
        super().set_state(state)
        self._last = state["last"]
        if self._target is not None and state["target"] is not None:
            self._target.set_state(state["target"])
            self.epochs = self._target.last
        self.iterations, self.shown = state["iterations"], state["shown"]

"""Training of the classifier on one experience, with a method's replay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay, Step
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning.batches import Batches
from avalanche_dgm.lightning.ranks import Ranks
from avalanche_dgm.lightning.stages import Optimization, Stage
from avalanche_dgm.methods.abilities import LatentInputs
from avalanche_dgm.plugins.steps import BatchMoments
from avalanche_dgm.stopping import TrainingTarget

if TYPE_CHECKING:
    from avalanche_dgm.lightning.stream_run import StreamRun


class AlternatingBatches:
    """Yields each batch followed by an empty batch, for a step on replay only.

    Args:
        batches: The batches of new samples.
        done: Steps of the first pair that are already done, 0 or 1.
    """

    batch_sampler = None

    def __init__(self, batches: Batches, done: int) -> None:
        self.batches, self._done = batches, done

    @property
    def sampler(self) -> AlternatingBatches:
        """Itself, as Lightning calls ``set_epoch`` on a loader's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; a new epoch starts at its first batch."""
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
    """Training of the classifier on one experience, for all epochs.

    Args:
        run: The run over the stream, with its module, settings, Trainer and view for metrics.
        learner: The classifier to train, `Method.active`.
        batches: The experience's batches.
        validation: This process's shards of the validation batches; may be empty.
        width: Number of outputs of the user's model.
        read: What the memory reads, to compare batches with; ``None`` for a part of it.

    Attributes:
        iterations: Batches of new samples so far.
        shown: Samples of these batches, over all devices.
    """

    def __init__(
        self,
        run: StreamRun,
        learner: nn.Module,
        *,
        batches: Batches,
        validation: Sequence[Batches],
        width: int,
        read: ExperienceData | None,
    ) -> None:
        name = f"{run.label}: learning"
        super().__init__(name, log_prefix="train", module=learner, epochs=run.epochs)
        self.method, self.batches, self.width = run.method, batches, width
        self._validation, self._owner, self.view = validation, run.module, run.view
        self.criterion = run.module.criterion
        # The first experience is not rolled back.
        self.restores = self.method.experiences > 0
        #: The learning rate of a cosine schedule that starts at the target accuracy.
        self._lr: float | None = None if run.until is None else run.module.cosine_lr
        self._target: TrainingTarget | None = None
        if run.until is not None:
            self._target = TrainingTarget(run.until, settle=self._lr is not None)
            self._target.begin(self.epochs)
        self._n_batches = len(batches)
        self._trainer, self._ranks = run.trainer, Ranks.of(run.trainer)
        compared = read is not None and self._ranks.rank == 0
        self._read, self._moments = read, BatchMoments(width if compared else 0)
        self.iterations, self.shown = 0, 0
        method = self.method
        self._alternates = isinstance(method, LatentInputs) and method.alternates
        self._steps_per_batch = 2 if self._alternates else 1
        self._batch_size, self._on_replay = 0, False
        self._n_replayed = 0
        trained = {id(parameter) for parameter in learner.parameters()}
        #: Parameters outside of the classifier, until the first step.
        self._outside = {
            name: parameter
            for name, parameter in run.module.named_parameters()
            if id(parameter) not in trained and parameter.grad is None
        }

    def loader(self) -> Iterable[Any]:
        self.batches.set_epoch(self.epoch)
        self.batches.start, done = divmod(self.batch, self._steps_per_batch)
        self.view.dataloader = self.batches
        return AlternatingBatches(self.batches, done) if self._alternates else self.batches

    def val_loader(self) -> Any:
        return self._validation or None

    def optimization(self, *, fused: bool) -> Optimization:
        """The module's optimiser, kept across experiences, and a new schedule."""
        optimizer = self._owner.learning_optimizer(self.module, fused=fused)
        if self._target is not None:
            return optimizer, None
        accumulate = self._trainer.accumulate_grad_batches
        steps = self.epochs * -(-self._steps_per_batch * self._n_batches // accumulate)
        steps_per_batch = self._steps_per_batch if accumulate == 1 else 1
        return optimizer, self._owner.learning_schedule(optimizer, steps, steps_per_batch)

    def loss(self, batch: Any) -> Tensor:
        """The loss of a batch and its replay; of an empty batch, the loss of replay only."""
        self._set_lr()
        self._on_replay = not len(batch)
        if self._on_replay:
            return self._replay_loss()
        method, view, ranks = self.method, self.view, self._ranks
        method.stats.steps += 1
        position = self.batch // self._steps_per_batch - self.batches.start
        self._batch_size = n = self.batches.sizes[position]
        images, labels, tasks = self.batches.shard(batch, n)
        n_own = len(images)
        self._moments.add(images, labels)
        view.set_batch(batch, n, shard=not self.batches.whole)
        view.fire("before_training_iteration")
        view.loss = torch.zeros(1, device=images.device)
        view.fire("before_forward")
        replay = None if self._alternates else self._replay(n)
        logits = method(images, tasks, width=self.width, replay=replay)
        own_logits = logits[:n_own]
        view.set_outputs(own_logits, n)
        view.fire("after_forward")
        weight = ranks.loss_weight(n, sums=method.criterion.scale.sums)
        loss = torch.zeros(1, device=images.device) + self.criterion(own_logits, labels) * weight
        new = loss
        if replay is not None:
            self._count(replay, logits.shape[1])
            # Computed twice, as in Avalanche's loop, so that gradients are bitwise equal.
            new = self.criterion(own_logits, labels) * weight
        step = Step(
            images,
            tasks,
            own_logits,
            new=new,
            n=n,
            replay=replay,
            replay_logits=None if replay is None else logits[n_own:],
            share=ranks.loss_weight(n),
            replay_share=1.0 if replay is None else ranks.loss_weight(self._n_replayed),
        )
        added = method.loss(step)
        if added is not None:
            loss = loss + added
        view.set_loss(loss)
        view.fire("before_backward")
        correct = (own_logits.detach().argmax(dim=1) == labels).sum()
        self.means.add("train/accuracy", correct, n_own)
        return loss.sum()

    def _replay_loss(self) -> Tensor:
        method, replay = self.method, self._replay(self._batch_size)
        if replay is None:
            raise RuntimeError("The method alternates with replay, but has none.")
        logits = method(replay.images, replay.tasks, width=self.width)
        self._count(replay, logits.shape[1])
        share = self._ranks.loss_weight(self._n_replayed)
        loss = method.loss(Step.on_replay(replay, logits, self._batch_size, share=share))
        if loss is None:
            raise RuntimeError("The method alternates with replay, but has no loss for it.")
        return loss

    def _replay(self, n: int) -> Replay | None:
        """This process's shard of the replay for a batch of ``n``."""
        full = self.method.replay(n)
        if full is None:
            return None
        self._n_replayed = len(full)
        return full[self._ranks.shard(len(full))]

    def _count(self, replay: Replay, width: int) -> None:
        # Replay too small to shard is the same in every process; only rank 0 counts it.
        counts = self._ranks.can_shard(self._n_replayed) or self._ranks.rank == 0
        self.method.stats.count(replay if counts else replay[:0], width)

    def _set_lr(self) -> None:
        """Decays the learning rate on a cosine once the target was reached."""
        if self._target is None or self._lr is None:
            return
        batch = self.batch // self._steps_per_batch
        lr = self._lr * self._target.factor(self.epoch, batch, self._n_batches)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _check_target(self) -> None:
        """Sets the number of epochs from the target accuracy."""
        if self._target is None:
            return
        accuracy = self.epoch_means()["train/accuracy"].to(self._trainer.strategy.root_device)
        # The mean over processes, so that all stop together.
        reduced = self._trainer.strategy.reduce(accuracy.double(), reduce_op="mean")
        self._target.end_epoch(self.epoch + 1, float(reduced))
        self.epochs = self._target.last
        self._trainer.fit_loop.max_epochs = self.epochs

    def _check_outside(self) -> None:
        """Checks that a loss of the user's own trains what it has gradients for.

        Raises:
            ConfigError: It has gradients for parameters that no step changes.
        """
        optimized = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        outside, self._outside = self._outside, {}
        lost = [n for n, p in outside.items() if p.grad is not None and id(p) not in optimized]
        if lost:
            raise ConfigError(
                f"The loss has gradients for {', '.join(lost[:3])}, which would never change, as"
                " they are not in the classifier's optimizer. Make your own parameters a part of"
                " model, pass an optimizer function that includes them, or set their"
                " requires_grad to False. The classifier in training is module.method.active."
            )

    def hook(self, name: str) -> None:
        """Counts iterations and calls Avalanche's metrics."""
        if name == "after_backward" and self._outside:
            self._check_outside()
        if name == "after_training_iteration" and not self._on_replay:
            self.iterations, self.shown = self.iterations + 1, self.shown + self._batch_size
        if name == "after_training_epoch":
            self._moments.compare(self._read)
            self._check_target()
        # For Avalanche's metrics, a step on replay only is part of the previous iteration.
        if not self._on_replay or "epoch" in name:
            self.view.fire(name)
            if self.view.should_stop:
                self._trainer.should_stop = True

    def epoch_means(self) -> dict[str, Tensor]:
        """Mean loss and accuracy on new samples over the epoch."""
        return {"train/accuracy": torch.tensor(0.0), **super().epoch_means()}

    def state(self) -> dict[str, Any]:
        counts = {"iterations": self.iterations, "shown": self.shown}
        target = None if self._target is None else self._target.state()
        return {**super().state(), **counts, "last": self._batch_size, "target": target}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._batch_size = state["last"]
        if self._target is not None and state["target"] is not None:
            self._target.set_state(state["target"])
            self.epochs = self._target.last
        self.iterations, self.shown = state["iterations"], state["shown"]

"""The contract between a method and the framework that drives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay, append_replay, check_experience
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.losses import Criterion, distillation
from avalanche_dgm.losses.criterion import UserCriterion
from avalanche_dgm.memories.classifiers import logits_of
from avalanche_dgm.memories.growing_heads import counted, grow_to, set_counted
from avalanche_dgm.methods.record import Record
from avalanche_dgm.methods.undo import Undoable
from avalanche_dgm.modules import size_in_bytes
from avalanche_dgm.randomness import RandomSource
from avalanche_dgm.signatures import KeepsArguments


class Method(KeepsArguments, Undoable):
    """A way to remember, driven through a few verbs.

    An adapter calls, for each experience: `attach`, `check`, `begin`, `set_criterion`, the phases
    of `before_learning`, then for each batch of the learner's training `replay` and `with_replay`,
    at last the phases of `after_learning` and `end`. Phases are run by the adapter, in the order in
    which they are yielded. An experience that fails or is interrupted before its `end` is put back
    by `undo`, which the next `begin` calls, too.

    Args:
        seed: Seed of everything random in the method; ``None`` takes one from PyTorch's global
            generator at the first draw.

    Attributes:
        copies: What copies of the learner are needed for, as a sentence; empty if none are.
        trains_learner: Whether the learner's parameters learn.
    """

    copies: str = ""
    trains_learner: bool = True

    def __init__(self, *, seed: int | None = None) -> None:
        super().__init__()
        whole = isinstance(seed, int) and not isinstance(seed, bool)
        if seed is not None and not (whole and 0 <= seed < 2**63):
            raise ConfigError(f"seed={seed!r} must be a whole number from 0 to 2**63 - 1, or None.")
        self.random = RandomSource(seed)
        self.experiences = 0
        self.learner: nn.Module | None = None
        self.task_aware = False
        self.criterion = UserCriterion()
        self._record = Record()
        self._counts: Tensor | None = None

    @property
    def needs_tasks(self) -> bool:
        """Whether it must know which task an experience belongs to."""
        return False

    @property
    def rng(self) -> torch.Generator:
        """The generator of random numbers on the device that the method is on."""
        tensors = chain(self.parameters(), self.buffers())
        device = next((t.device for t in tensors), torch.device("cpu"))
        return self.random.on(device)

    @property
    def record(self) -> Record:
        """What was done so far; reading it waits for the device."""
        if self._counts is not None:
            counts = self._counts.tolist()
            self._record.replayed = sum(counts)
            self._record.histogram = {i: c for i, c in enumerate(counts) if c}
        return self._record

    def set_criterion(self, criterion: Criterion, *, width: int, classes: Iterable[int]) -> None:
        """Tells which loss the classifier is trained by on new samples.

        It also judges replayed samples with hard labels, and gives soft labels and penalties its
        scale.

        Args:
            criterion: From logits (n, K) and labels (n,) to a scalar.
            width: Number of outputs of the user's model.
            classes: Labels of the experience.

        Raises:
            ConfigError: Nothing can be weighed against it, see `measure_criterion`.
        """
        if self.learner is None:
            return
        self.criterion.set(criterion, self.learner, width=width, classes=classes)
        if self.soft_labels and self.criterion.scale.takes == "probabilities":
            raise ConfigError(
                "The criterion takes probabilities, and soft labels are made of logits or"
                " log-probabilities. Let the model return one of these (CrossEntropyLoss, or"
                " LogSoftmax with NLLLoss), or use labels='hard'."
            )

    @property
    def soft_labels(self) -> bool:
        """Whether replayed samples are labelled by the softmax of a former classifier's answers."""
        return False

    @property
    def active(self) -> nn.Module | None:
        """The classifier that learns the current experience, or ``None`` if none does by batches.

        Its parameters are those that an adapter's optimiser trains; see `respond`.
        """
        return self.learner

    def learners(self) -> dict[str, nn.Module]:
        """Networks of the method's own that `active` may be, each under a name that it keeps.

        An adapter whose optimiser outlives an experience shows them to it.
        """
        return {}

    def prepare(
        self, data: ExperienceData, *, augmented: Callable[[], bool] = lambda: False
    ) -> ExperienceData:
        """What the classifier is trained on: the samples themselves, or what stands for them.

        Args:
            data: The experience, after `before_learning`.
            augmented: Tells whether the samples would otherwise be read with augmentations.
        """
        return data

    def respond(
        self, images: Tensor, tasks: Tensor, *, width: int, replay: Replay | None = None
    ) -> Tensor:
        """Answers as the classifier that learns the current experience.

        Args:
            images: Float tensor (n, *shape), samples of what `prepare` returned; n may be 0 if
                there is a replay.
            tasks: int64 tensor (n,), task labels.
            width: Number of outputs of the user's model.
            replay: What is answered after them, in the same pass.

        Returns:
            Logits (n + len(replay), width) or wider.
        """
        return self._ask(*append_replay(images, tasks, replay))

    def predict(self, images: Tensor, tasks: Tensor, *, key: str | None = None) -> Tensor:
        """Answers at test time.

        Args:
            images: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels.
            key: The task's name from an oracle, for methods that route by it.

        Returns:
            Logits (n, K).
        """
        return self._ask(images, tasks)

    def _ask(self, images: Tensor, tasks: Tensor) -> Tensor:
        if self.learner is None:
            raise RuntimeError("The method has no learner yet; call attach() first.")
        return logits_of(self.learner, images, tasks, task_aware=self.task_aware)

    def answer(self, network: nn.Module, inputs: Tensor, tasks: Tensor) -> Tensor:
        """Answers what the learner is trained on by another network like it, in its own mode.

        Args:
            network: A copy of the learner, or one that has grown.
            inputs: Float tensor (n, *shape), samples of what `prepare` returned, or replayed ones.
            tasks: int64 tensor (n,), task labels.

        Returns:
            Logits (n, K).
        """
        return logits_of(network, inputs, tasks, task_aware=self.task_aware)

    def make_room(self, key: str) -> Iterator[Phase]:
        """Yields what has to be trained before a task can begin.

        Args:
            key: The task.
        """
        yield from ()

    def check(self, data: ExperienceData) -> None:
        """Checks that an experience can be learned; changes nothing.

        Args:
            data: All of its samples.

        Raises:
            DataError: They cannot be learned.
        """
        check_experience(data)

    def begin(self, data: ExperienceData) -> None:
        """Starts an experience: checks its data, takes room for it.

        Args:
            data: All of its samples.

        Raises:
            DataError: They cannot be learned; nothing was changed.
        """
        self.undo()
        self.check(data)
        self._save(self._unchanged(data.key))
        try:
            self._begin(data)
        except BaseException:
            self.undo()
            raise

    def _begin(self, data: ExperienceData) -> None:
        """Starts a checked experience; subclasses extend it."""
        self._counts = None
        self._record.replayed, self._record.histogram = 0, {}
        self._record.phase_seconds = {}

    def before_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields what is trained before the learner."""
        yield from ()

    def replay(self, n: int) -> Replay | None:
        """Draws samples to go with a batch of the current experience.

        Args:
            n: Size of that batch.

        Returns:
            The samples, or ``None`` if there is nothing to replay yet.
        """
        return None

    def recall(self, n: int) -> Replay | None:
        """Draws old inputs for another method that answers them itself, such as A-LTM.

        Args:
            n: How many, whatever the size of the method's own replay.

        Returns:
            Samples, balanced over old classes and without soft labels, or ``None`` if there is
            nothing to replay yet.
        """
        raise NotImplementedError

    @property
    def alternates(self) -> bool:
        """Whether replay has steps of its own, each after one on new samples, in this experience.

        Otherwise each step has both, weighed by `new_weight`.
        """
        return False

    def penalty(self, images: Tensor, tasks: Tensor, logits: Tensor) -> Tensor | None:
        """What is added to the loss on new samples by `UserCriterion.scaled`, or ``None``.

        Args:
            images: Float tensor (n, *shape), the new samples.
            tasks: int64 tensor (n,), task labels.
            logits: Tensor (n, K), the classifier's answers to them.

        Returns:
            Scalar.
        """
        return None

    @property
    def new_weight(self) -> float:
        """Weight of the current experience's loss, in (0, 1]; replay weighs the rest."""
        return 1.0

    def replay_loss(self, logits: Tensor, replay: Replay, *, n: int = 1) -> Tensor:
        """The loss on replayed samples, on the criterion's scale.

        Args:
            logits: Tensor (m, K), the learner's answers to ``replay.images``.
            replay: What was replayed.
            n: Number of new samples that it is weighed against, for a criterion that sums.
        """
        if replay.targets is None:
            return self.criterion.of_replay(logits, replay.labels, n)
        soft = distillation(logits, replay.targets, temperature=self.temperature).mean()
        return self.criterion.scaled(soft, n)

    def with_replay(
        self, loss: Tensor, new: Tensor, logits: Tensor, replay: Replay, *, n: int = 1
    ) -> Tensor:
        """Weighs a batch's loss against the replay's.

        Args:
            loss: What shall be minimised so far: ``new``, and what others added to it.
            new: The batch's own loss, which is a part of ``loss``.
            logits: Tensor (m, K), the learner's answers to ``replay.images``.
            replay: What was replayed.
            n: Number of samples that ``new`` is the loss of, for a criterion that sums.

        Returns:
            ``loss`` with ``new`` replaced by w ``new`` + (1 - w) ``old``; the rest stays whole.
        """
        return loss + (1 - self.new_weight) * (self.replay_loss(logits, replay, n=n) - new)

    @property
    def temperature(self) -> float:
        """Softness of the soft labels."""
        return 1.0

    def after_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields what is trained after the learner."""
        yield from ()

    def end(self, data: ExperienceData) -> None:
        """Ends an experience; drops what was needed for it only."""
        self.experiences += 1
        self._keep()

    def before_predicting(self) -> Iterator[Phase]:
        """Yields what is trained before a test between experiences."""
        yield from ()

    def test_key(self, key: str, classes: Sequence[int]) -> str | None:
        """The task that test images are routed by, for methods that do so by an oracle.

        Args:
            key: The name that the oracle gives to the test experience.
            classes: Its classes.

        Returns:
            The key for `predict`, or ``None`` to route without it.
        """
        return None

    def sample(self, n: int) -> Replay:
        """Draws samples of what is remembered, to look at."""
        raise NotImplementedError

    def encode(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """The memory's latents of images, to look at.

        Args:
            images: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels.

        Returns:
            Float tensor (n, D), or ``None`` if there are none (yet).
        """
        return None

    def reconstruct(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """Images as the memory sees them, to look at.

        Args:
            images: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels.

        Returns:
            Float tensor (n, *shape), or ``None`` if it does not reconstruct (yet).
        """
        return None

    def count(self, replay: Replay, width: int) -> None:
        """Counts replayed labels on the device.

        Args:
            replay: What was replayed.
            width: Number of classes.
        """
        if self._counts is None or len(self._counts) < width:
            wider = torch.zeros(width, dtype=torch.int64, device=replay.labels.device)
            if self._counts is not None:
                wider[: len(self._counts)] = self._counts
            self._counts = wider
        self._counts.index_add_(0, replay.labels, torch.ones_like(replay.labels))

    def note_phase(self, name: str, seconds: float) -> None:
        """Notes how long a phase took."""
        spent = self._record.phase_seconds
        spent[name] = spent.get(name, 0.0) + seconds
        if name.startswith("sleep"):
            self._record.sleep_seconds += seconds

    def interim_state(self) -> dict[str, Any]:
        """What changes within an experience beside weights, for `set_interim_state`."""
        return {
            "random": self.random.get_state(),
            "counts": self._counts.clone() if self._counts is not None else None,
            "phase_seconds": dict(self._record.phase_seconds),
            "sleep_seconds": self._record.sleep_seconds,
        }

    def set_interim_state(self, state: dict[str, Any]) -> None:
        """Continues where `interim_state` was called, at the same point of the same experience."""
        self.random.set_state(state["random"])
        counts = state["counts"]
        self._counts = counts.to(self.rng.device).clone() if counts is not None else None
        self._record.phase_seconds = dict(state["phase_seconds"])
        self._record.sleep_seconds = state["sleep_seconds"]

    def hold(self, name: str, module: Any) -> None:
        """Sets an attribute that may be a module but is no part of this one's state.

        What is needed for the current experience only does not belong into a checkpoint.

        Args:
            name: The attribute.
            module: Its value.
        """
        object.__setattr__(self, name, module)

    def memory(self) -> list[nn.Module]:
        """The modules that exist only to remember, the learner not among them."""
        return []

    def stored_samples(self) -> int:
        """Samples, or latents of samples, that are kept as they are; 0 if all are generated."""
        return 0

    def memory_bytes(self) -> int:
        """Bytes that the memory takes beside the learner, stored samples included."""
        return sum(size_in_bytes(module) for module in self.memory())

    def get_extra_state(self) -> dict[str, Any]:
        """Random numbers and counters, for ``state_dict``."""
        return {
            "random": self.random.get_state(),
            "experiences": self.experiences,
            "sleep_seconds": self._record.sleep_seconds,
            "counted": counted(self.learner),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_extra_state` returned."""
        self.random.set_state(state["random"])
        self.experiences = state["experiences"]
        self._record.sleep_seconds = state["sleep_seconds"]
        set_counted(self.learner, state.get("counted", {}))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # What is loaded is final, also after an experience that was interrupted.
        self._keep()
        self.make_fit(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def make_fit(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Gives networks that grow the sizes that a state has, before it is loaded.

        Args:
            state_dict: The state.
            prefix: What the method's names begin with there.
        """
        grow_to(self.learner, state_dict, f"{prefix}learner.")

"""Latent replay (Saez de Ocariz Borde 2022).

The first layers of a classifier, the compressor, are frozen after the first experience. What they
make of a few samples is stored, and replayed to the layers behind them, which go on learning.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Latents, Replay, append_replay, check_experience
from avalanche_dgm.errors import ConfigError, UnknownTaskError, UnsupportedModelError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.losses import UserCriterion, soft_targets
from avalanche_dgm.memories import Frozen
from avalanche_dgm.memories.classifiers import check_heads, learned_outputs, logits_of
from avalanche_dgm.memories.latent import LatentVAE, check_covariance
from avalanche_dgm.memories.settings import MemorySettings
from avalanche_dgm.memories.splitting import Front, SplitModel
from avalanche_dgm.methods.abilities import Inspectable, LatentInputs, ReplaySource
from avalanche_dgm.methods.base import Method, Needs
from avalanche_dgm.methods.latent_memory import make_latent_memory
from avalanche_dgm.methods.registry import register
from avalanche_dgm.settings import one_of, positive, whole
from avalanche_dgm.signatures import takes_arguments_of


def _fast(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"generator_steps": 30} if settings.get("memory") == "vae" else {}


@register("latent-replay", "a frozen compressor, and stored latents of a few samples", fast=_fast)
@takes_arguments_of(MemorySettings)
class LatentReplay(Inspectable, LatentInputs, ReplaySource, Method):
    """Replay of latents behind a frozen compressor.

    Args:
        layer: Name of the compressor's last layer, as in ``model.named_modules()``; children of an
            ``nn.Sequential`` are named by their number, which may be given as such. ``None`` for a
            model with the parts ``compressor`` (or ``features``) and ``classifier``, or of two in
            sequence.
        compressor: The compressor itself, a part of the model, instead of ``layer``.
        classifier: The part that maps latents to logits, or its name, where there is one. It is
            found out by itself for those models, and nothing is lost without it but some speed.
        share: Share of each experience's samples whose latents are stored, in (0, 1]. If no size is
            given, it is 0.05, and 10 of each class at least, and a class that comes again takes no
            more room.
        per_class: Latents stored of each class, instead.
        per_experience: Latents stored of each experience, instead.
        total: Latents stored in all, instead.
        dtype: How they are stored: ``"float32"``, ``"float16"`` or ``"uint8"``, see
            `avalanche_dgm.memories.StoredMemory`.
        memory: ``"stored"``; or one that stores nothing and generates latents: ``"density"``, a
            Gaussian for each class, or ``"vae"``, a deep generative memory over latents.
        schedule: ``"mixed"`` has new and old latents in each step; ``"alternating"`` a step on old
            ones after each on new ones (the paper).
        freeze_after: Experiences before the compressor is frozen; 0 freezes it from the start, for
            one that was trained before. Above 1, the chosen *images* are stored (as ``dtype``) and
            replayed until then, and encoded by the compressor that is frozen.
        encode_once: Whether a new experience is encoded once, without its augmentations, and then
            trained on latents only; else each batch is encoded on the way. ``None`` decides it by
            whether the experience is augmented.
        replay_size: Replayed latents a step; ``None`` for as many as are new.
        covariance: Whether mean and covariance of each class's latents are kept beside those that
            are stored, for the noise on them; ``None`` if they take no more bytes than what is
            stored of a class at first, a latent has 256 values at most, and no ``total`` is given.
        jitter: Noise on each stored latent when it is replayed, as a share of how much its class
            varies, from 0 (what is stored and nothing else) to 1; ``None`` for 0.5, or with the
            classes' covariances for n ** -0.1 with n latents stored of a class in the mean. See
            `StoredMemory.draw` and `avalanche_dgm.generators.ClassDensity.jitter`.
        labels: What replayed latents are labelled with: ``"soft"``, the softened answers over the
            classes known that the classifier gave before the experience; ``"hard"``, their classes
            (the paper).
        temperature: Softness of soft labels, above 0.
        seed: See `Method`.
        **hyper: Fields of `MemorySettings`, for ``memory="vae"``; ``likelihood`` is ``"gaussian"``
            and ``kl_weight`` 0.1 by default.

    Raises:
        ConfigError: A hyper-parameter is unknown or cannot work.
    """

    def __init__(
        self,
        *,
        layer: str | int | None = None,
        compressor: nn.Module | None = None,
        classifier: nn.Module | str | None = None,
        share: float | None = None,
        per_class: int | None = None,
        per_experience: int | None = None,
        total: int | None = None,
        dtype: str = "float32",
        memory: str = "stored",
        schedule: str = "mixed",
        freeze_after: int = 1,
        encode_once: bool | None = None,
        replay_size: int | None = None,
        covariance: bool | None = None,
        jitter: float | None = None,
        labels: str = "soft",
        temperature: float = 1.0,
        seed: int | None = None,
        **hyper: Any,
    ) -> None:
        super().__init__(seed=seed)
        one_of("schedule", schedule, "mixed", "alternating")
        one_of("labels", labels, "soft", "hard")
        positive("temperature", temperature)
        whole("freeze_after", freeze_after, least=0)
        whole("replay_size", replay_size, optional=True)
        counts = {"per_class": per_class, "per_experience": per_experience, "total": total}
        sizes: dict[str, Any] = {"share": share, **counts}
        given = {name: size for name, size in sizes.items() if size is not None}
        if layer is not None and compressor is not None:
            raise ConfigError("Give layer or compressor, not both: each says where the cut is.")
        self.layer = layer
        self.classifier = classifier if isinstance(classifier, str) else None
        #: Parts of the model that it names when it is attached.
        self._parts: dict[str, nn.Module]
        parts = {"layer": compressor, "classifier": classifier}
        self._hold("_parts", {k: v for k, v in parts.items() if isinstance(v, nn.Module)})
        for name in ("compressor", "classifier"):
            if isinstance(self._given[1].get(name), nn.Module):
                del self._given[1][name]
        self.schedule, self.freeze_after = schedule, freeze_after
        self.encode_once, self.replay_size = encode_once, replay_size
        self.stored, self.generated = make_latent_memory(
            memory, given, dtype, covariance, jitter, freeze_after, hyper
        )
        self.labels, self._temperature = labels, temperature
        if labels == "soft":
            self.needs = Needs(copies="A copy gives the soft labels; labels='hard' does without.")
            self.criterion = UserCriterion(soft_labels=True)
        self.split: SplitModel | None
        self._hold("split", None)
        #: The classifier as it was before the experience, for soft labels.
        self._teacher: Frozen[nn.Module] | None
        self._hold("_teacher", None)
        #: How other networks than the learner are cut, within an experience.
        self._cuts: dict[nn.Module, SplitModel] = {}
        self.covariance = covariance
        self._front: Front | None = None
        self._shape: tuple[int, ...] | None = None
        #: The experience's latents, from when it is trained on them until it ends.
        self._encoded: ExperienceData | None = None

    @classmethod
    def model_of(
        cls,
        *,
        compressor: nn.Module | None = None,
        classifier: nn.Module | str | None = None,
        **others: Any,
    ) -> nn.Module:
        """The model that the hyper-parameters name the parts of: one after the other.

        Args:
            compressor: See `LatentReplay`.
            classifier: See `LatentReplay`.
            **others: What else there is.

        Raises:
            ConfigError: A part is missing.
        """
        if compressor is None or not isinstance(classifier, nn.Module):
            raise ConfigError("There is no model. Give model, or both compressor and classifier.")
        parts = {"compressor": compressor, "classifier": classifier}
        return nn.Sequential(OrderedDict(parts))

    @property
    def uses_latents(self) -> bool:
        """See `LatentInputs.uses_latents`."""
        return True

    @property
    def frozen(self) -> bool:
        """Whether the compressor is."""
        return self._front is not None

    def attach(self, learner: nn.Module, *, task_aware: bool) -> None:
        """See `Method.attach`.

        Raises:
            ConfigError: The learner has no layer of that name, or no such part.
            UnsupportedModelError: The learner is not a ``torch.nn.Module``.
        """
        if not isinstance(learner, nn.Module):
            raise UnsupportedModelError(
                f"The model is a {type(learner).__name__}, not a torch.nn.Module."
            )
        for what, part in self._parts.items():
            setattr(self, what, _name_of(learner, part, what))
        self._hold("_parts", {})
        if self.split is None or self.split.model is not learner:
            split = SplitModel(
                learner, self.layer, classifier=self.classifier, task_aware=task_aware
            )
            self._hold("split", split)
            if self._front is not None:
                split.freeze(self._front)
        super().attach(learner, task_aware=task_aware)

    def _cut(self) -> SplitModel:
        if self.split is None:
            raise RuntimeError("The method has no learner yet; call attach() first.")
        return self.split

    def check(self, data: ExperienceData) -> None:
        """See `Method.check`.

        Raises:
            CapacityError: No sample of some class would be stored.
            UnsupportedModelError: The learner cannot be cut behind the layer.
        """
        check_experience(data, shape=self._shape)
        if self.stored is not None:
            self.stored.check(data.labels, data.tasks)
        if not self.task_aware:
            # A head for a new task may be missing still; all else can be told before anything.
            self._check_cut(data)

    def _begin(self, data: ExperienceData) -> None:
        """See `Method.begin`."""
        super()._begin(data)
        self._shape = tuple(data.images.shape[1:])
        self._encoded = None
        self._forget_copies()
        pairs = torch.stack([data.tasks, data.labels], dim=1)
        new = len(torch.unique(pairs, dim=0))
        self._new_weight = new / (new + self._n_known)

    def _check_cut(self, data: ExperienceData) -> None:
        split = self._cut()
        split.check(data.images, data.tasks)
        if split.latent_shape is None:
            return
        if self.generated is not None:
            self.generated.check(split.latent_shape)
        if self.covariance:
            check_covariance(split.latent_shape, "covariance=None")

    @property
    def _known(self) -> Tensor:
        """What was learned: int64 rows (k, 2) of task label and class."""
        if self.stored is not None:
            return self.stored.classes.rows[:, 1:]
        density = self.generated.density if self.generated is not None else None
        return density.classes.rows[:, 1:] if density is not None else torch.empty(0, 2).long()

    @property
    def _n_known(self) -> int:
        return len(self._known)

    def before_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Freezes the compressor if it is to be from the start; copies who gives soft labels.

        Raises:
            ConfigError: The classifier has lost outputs that were learned.
            UnsupportedModelError: It cannot be cut behind the layer, or not be copied.
        """
        if self.task_aware:
            self._check_cut(data)
        if self._n_known and self.learner is not None:
            # In the order of labels, so that a task's last one counts.
            needed = {task: label + 1 for task, label in sorted(self._known.tolist())}
            check_heads(self.learner, data.images[:1], needed, task_aware=self.task_aware)
        if not self.frozen and not self.freeze_after:
            self._front = self._cut().freeze()
        # A classifier that is still learning a class is no teacher of it.
        soft = self.labels == "soft" and not data.partial
        if soft and self._n_known and self.learner is not None:
            self._hold("_teacher", Frozen(self.learner))
        yield from ()

    def prepare(
        self, data: ExperienceData, *, augmented: Callable[[], bool] = lambda: False
    ) -> ExperienceData:
        """The experience's latents, once the compressor is frozen."""
        if not self.frozen:
            return data
        if self.encode_once is False or (self.encode_once is None and augmented()):
            return data
        self._encoded = self._latents(data)
        return replace(self._encoded, images=Latents.of(self._encoded.images))

    def _latents(self, data: ExperienceData) -> ExperienceData:
        if self._encoded is not None:
            return self._encoded
        return replace(data, images=self._cut().encode(data.images, data.tasks))

    def encode_batch(self, x: Tensor, tasks: Tensor) -> Tensor:
        """See `LatentInputs.encode_batch`."""
        if not self.frozen or isinstance(x, Latents):
            return x
        return Latents.of(self._cut().encode(x, tasks))

    def forward(
        self, images: Tensor, tasks: Tensor, *, width: int, replay: Replay | None = None
    ) -> Tensor:
        """See `Method.forward`; takes images of an experience that is trained on latents, too."""
        if replay is not None and isinstance(replay.images, Latents):
            images = self.encode_batch(images, tasks)
        return self._logits(*append_replay(images, tasks, replay))

    def _logits(self, images: Tensor, tasks: Tensor) -> Tensor:
        if isinstance(images, Latents):
            return self._cut().answer(images, tasks)
        return super()._logits(images, tasks)

    def replay(self, n: int) -> Replay | None:
        """Draws latents; or images, as long as the compressor learns."""
        if not self._n_known:
            return None
        replay = self.sample(self.replay_size or n)
        if self._teacher is None:
            return replay
        with torch.no_grad():
            logits = self.answer(self._teacher.module, replay.images, replay.tasks)
        allowed = learned_outputs(
            self._known, replay.tasks, logits.shape[1], by_task=self.task_aware
        )
        targets = soft_targets(logits, allowed=allowed, temperature=self._temperature)
        return Replay(replay.images, replay.labels, replay.tasks, targets)

    def sample_old(self, n: int) -> Replay | None:
        """See `ReplaySource.sample_old`: latents; or images, as long as the compressor learns."""
        return self.sample(n) if self._n_known else None

    def answer(self, network: nn.Module, inputs: Tensor, tasks: Tensor) -> Tensor:
        """The logits of another network for what the learner is trained on.

        Args:
            network: A copy of the learner, or one that has grown; in its own mode.
            inputs: Float tensor (n, *shape), images, or latents for what is behind the cut.
            tasks: int64 tensor (n,), task labels.
        """
        if not isinstance(inputs, Latents):
            return logits_of(network, inputs, tasks, task_aware=self.task_aware)
        if network not in self._cuts:
            self._cuts[network] = self._cut().like(network)
        return self._cuts[network].answer(inputs, tasks)

    @property
    def alternates(self) -> bool:
        """See `LatentInputs.alternates`."""
        return self.schedule == "alternating" and self._n_known > 0

    def after_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields the training of the generative memory, if there is one."""
        if self.generated is not None:
            latents = self._latents(data)
            if isinstance(self.generated, LatentVAE):
                with self.random.seeded_init():
                    self.generated.build(latents.images)
            yield from self.generated.learning(latents, self.rng)

    def end(self, data: ExperienceData) -> None:
        """Freezes the compressor when it is time to, and remembers the experience by it."""
        split = self._cut()
        freezing = not self.frozen and self.experiences + 1 == self.freeze_after
        frozen = self.frozen or freezing
        if self.generated is not None:
            self.generated.absorb(self._latents(data), self.rng)
        elif self.stored is not None:
            if freezing:
                self.stored.convert(split.encode)
            encode = split.encode if frozen else None
            self.stored.add(data.images, data.labels, data.tasks, self.rng, encode=encode)
            if frozen and self.stored.wants_moments():
                self.stored.note(self._latents(data).images, data.labels, data.tasks)
        if freezing:
            # At last: an error or an interruption before leaves the model as it was.
            self._front = split.freeze()
        self._encoded = None
        self._forget_copies()
        super().end(data)

    def _forget_copies(self) -> None:
        self._cuts = {}
        self._hold("_teacher", None)

    def sample(self, n: int) -> Replay:
        """Draws remembered latents.

        Args:
            n: How many.

        Raises:
            UnknownTaskError: Nothing was learned yet.
        """
        if self.stored is not None and len(self.stored):
            # Images, which are stored while the compressor learns, are replayed as they are.
            if not self.frozen:
                return self.stored.draw(n, self.rng)
            return _as_latents(self.stored.rehearse(n, self.rng))
        if self.generated is not None and len(self.generated):
            return _as_latents(self.generated.draw(n, self.rng))
        raise UnknownTaskError("Nothing was learned yet: train on an experience first.")

    def encode(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """See `Inspectable.encode`: the compressor's, flattened."""
        if self.split is None or not self.experiences:
            return None
        return self.split.encode(images, tasks).flatten(1)

    def stored_samples(self) -> int:
        """See `Inspectable.stored_samples`."""
        return len(self.stored) if self.stored is not None else 0

    def memory(self) -> list[nn.Module]:
        """The stored latents and moments, or the generator and its density."""
        if self.generated is not None:
            return self.generated.parts()
        return [self.stored] if self.stored is not None else []

    def get_extra_state(self) -> dict[str, Any]:
        """See `Method.get_extra_state`."""
        front = self._front
        return {
            **super().get_extra_state(),
            "front": [list(front.modules), list(front.parameters)] if front else None,
            "shape": self._shape,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Freezes what was frozen, in the learner that is attached now or will be."""
        super().set_extra_state(state)
        names = state["front"]
        self._front = Front(tuple(names[0]), tuple(names[1])) if names else None
        self._shape = tuple(state["shape"]) if state["shape"] is not None else None
        if self._front is not None and self.split is not None:
            self.split.freeze(self._front)


def _as_latents(replay: Replay) -> Replay:
    return replace(replay, images=Latents.of(replay.images))


def _name_of(model: nn.Module, part: nn.Module, what: str) -> str:
    """The name that a model has for one of its parts, the very object."""
    for name, module in model.named_modules():
        if module is part and name:
            return name
    said = "compressor" if what == "layer" else what
    raise ConfigError(
        f"The {said} is no part of the model. Build the model of the very same objects, for"
        " example model=torch.nn.Sequential(compressor, classifier)."
    )

"""Deep generative memory: a generator, a learner and a dictionary of tasks.

Kamra et al. 2017, Section 3.1 and Figure 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.data import Replay
from avalanche_dgm.errors import UnknownTaskError, UnsupportedModelError
from avalanche_dgm.generators import VAE, FullDensity, VAESpec, choose_spec
from avalanche_dgm.generators.ranges import check_variety
from avalanche_dgm.generators.spec import check_images
from avalanche_dgm.losses import soft_targets
from avalanche_dgm.memories.classifiers import logits_of
from avalanche_dgm.memories.settings import MemorySettings
from avalanche_dgm.memories.tasks import TaskDictionary
from avalanche_dgm.modules import Frozen, evaluating

#: Images that pass through the generator at once where no gradient is needed.
CHUNK = 1024


class DeepGenerativeMemory(nn.Module):
    """Remembers tasks by generating their samples.

    The generator is built on first use, from the first images.

    Args:
        settings: Hyper-parameters.

    Attributes:
        generator: The autoencoder, or ``None`` before the first experience.
        density: Class-conditional density of its codes, or ``None`` as well.
        learner: The classifier that labels what is generated, or ``None`` until `attach`.
        tasks: Which tasks were learned, and how often.
    """

    generator: VAE | None
    density: FullDensity | None
    learner: nn.Module | None

    def __init__(self, settings: MemorySettings) -> None:
        super().__init__()
        self.settings = settings
        self.tasks = TaskDictionary()
        self.task_aware = False
        self.generator = None
        self.density = None
        self.learner = None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of one sample, or ``None`` before the first experience."""
        return self.generator.spec.shape if self.generator is not None else None

    def attach(self, learner: nn.Module, *, task_aware: bool = False) -> None:
        """Makes a classifier the memory's learner.

        Args:
            learner: Maps images, and task labels if ``task_aware``, to logits (n, K).
            task_aware: Whether it takes the task labels (n,) as its second argument.

        Raises:
            UnsupportedModelError: Samples of the prior have no task label, so they cannot be
                labelled by a learner that needs one.
        """
        if task_aware and self.settings.sampling == "prior":
            raise UnsupportedModelError(
                "The model answers by task label, but samples drawn from the prior have none. Use"
                " sampling='class' with multi-head models."
            )
        self.learner, self.task_aware = learner, task_aware

    def check(self, images: Tensor) -> None:
        """Checks that images can be learned; changes nothing.

        Args:
            images: Float tensor (N, *shape).

        Raises:
            ShapeError: The images' shape has changed.
            RangeError: The generator cannot produce their intensities, or learn them.
        """
        if self.settings.value_range is None:
            check_variety(images, first=self.generator is None)
        self._spec_for(images)

    def build(self, images: Tensor) -> None:
        """Builds the generator for the first images, or checks later ones against it.

        Args:
            images: Float tensor (N, *shape).

        Raises:
            ShapeError: The images' shape has changed.
            RangeError: The generator cannot produce their intensities.
        """
        spec = self._spec_for(images)
        if self.generator is None:
            self._build(spec, images.device)

    def _spec_for(self, images: Tensor) -> VAESpec:
        """The specification of the generator, or of one for first images; checks images."""
        s = self.settings
        if self.generator is not None:
            check_images(self.generator.spec, images, given=s.value_range is not None)
            return self.generator.spec
        return choose_spec(
            images,
            architecture=s.architecture,
            hidden=s.hidden,
            latent=s.latent,
            likelihood=s.likelihood,
            value_range=s.value_range,
        )

    def _build(self, spec: VAESpec, device: torch.device | str) -> None:
        self.generator = VAE(spec).to(device)
        self.density = FullDensity().to(device)

    def built(self) -> tuple[VAE, FullDensity]:
        """The generator and its density, once there are some."""
        if self.generator is None or self.density is None:
            raise RuntimeError("The memory has no generator yet; call build() first.")
        return self.generator, self.density

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor | None:
        """Means (n, latent) of the posterior of images (n, *shape); ``None`` before `build`."""
        if self.generator is None:
            return None
        with evaluating(self.generator):
            return self.generator.encode(images)[0]

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor | None:
        """The generator's view (n, *shape) of images (n, *shape); ``None`` before `build`."""
        if self.generator is None:
            return None
        with evaluating(self.generator):
            return self.generator.reconstruct(images)

    def snapshot(self) -> Frozen[DeepGenerativeMemory]:
        """Returns a copy of what is remembered now, to be replayed while the memory changes."""
        return Frozen(self)

    def answers(self, images: Tensor, tasks: Tensor) -> Tensor:
        """Returns the learner's logits (n, K).

        Args:
            images: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels.
        """
        if self.learner is None:
            raise RuntimeError("The memory has no learner yet; call attach() first.")
        return logits_of(self.learner, images, tasks, task_aware=self.task_aware)

    @torch.no_grad()
    def imagine(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """Draws images without labels.

        Args:
            n: How many.
            rng: Generator on the memory's device.

        Returns:
            Codes (n, z), images (n, *shape), and group, task label and label (n, 3) of each, which
            is ``None`` for samples of the prior.

        Raises:
            UnknownTaskError: Nothing was learned yet.
        """
        if self.density is None or not len(self.density.classes):
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        generator, density = self.built()
        if self.settings.sampling == "class":
            rows = density.classes.balanced(n, rng)
            codes = density.sample(rows, rng)
            return codes, generator.decode(codes), density.classes.rows[rows]
        codes = torch.randn(n, generator.spec.latent, generator=rng, device=density.means.device)
        return codes, generator.decode(codes), None

    @torch.no_grad()
    def draw(
        self, n: int, rng: torch.Generator, *, reconstruct: bool = False, hard: bool = False
    ) -> Replay:
        """Draws labelled images of what the memory knows.

        Labels are the classes that the codes were drawn for, or, for codes of the prior, the
        learner's decisions. Soft labels are the learner's answers over the classes it knows.

        Args:
            n: How many.
            rng: Generator on the memory's device.
            reconstruct: Whether the learner labels the images' reconstructions.
            hard: Leave soft labels out, whatever the settings say.

        Raises:
            UnknownTaskError: Nothing was learned yet.
        """
        _, images, entries = self.imagine(n, rng)
        generator, _ = self.built()
        if entries is None:
            tasks = torch.zeros(n, dtype=torch.int64, device=images.device)
        else:
            tasks = entries[:, 1]
        soft = self.settings.labels == "soft" and not hard
        if entries is not None and not soft:
            return Replay(images, entries[:, 2], tasks)
        with evaluating(self.learner):
            logits = self.answers(generator.reconstruct(images) if reconstruct else images, tasks)
        known = self.built()[1].classes
        allowed = known.outputs(tasks, logits.shape[1], by_task=self.task_aware)
        targets = soft_targets(logits, allowed=allowed, temperature=self.settings.temperature)
        labels = targets.argmax(dim=1) if entries is None else entries[:, 2]
        return Replay(images, labels, tasks, targets if soft else None)

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict`` needs to build the generator again."""
        return {
            "spec": self.generator.spec.to_dict() if self.generator is not None else None,
            "tasks": self.tasks.to_state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Builds the generator before its weights are loaded."""
        self.tasks.from_state(state["tasks"])
        if state["spec"] is None:
            self.generator = self.density = None
            return
        spec = VAESpec.from_dict(state["spec"])
        if self.generator is None or self.generator.spec != spec:
            device = next((p.device for p in self.parameters()), torch.device("cpu"))
            self._build(spec, device)

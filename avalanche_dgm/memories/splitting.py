"""A classifier split in two at one of its layers: images to latents, and latents to logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from avalanche_dgm.errors import UnsupportedModelError, required
from avalanche_dgm.memories.classifiers import depends_on, logits_of
from avalanche_dgm.memories.layers import (
    FrozenPrefix,
    find_head,
    find_parts,
    layers_behind,
    run_order,
)
from avalanche_dgm.modules import agree, evaluating, in_chunks

#: Number of images for checking a cut.
_CHECKED = 4


class _Reached(Exception):  # noqa: N818
    """Ends a forward pass at the cut."""

    def __init__(self, latents: Any) -> None:
        super().__init__()
        self.latents = latents


class SplitModel:
    """A model, cut after one of its layers or before its classifier.

    If the layers after the cut run in sequence, latents pass through these layers only. In other
    models, the whole model runs on blank images, and a hook inserts the latents at the cut. `check`
    chooses the way that reproduces the model's logits, and refuses models for which none does.

    Args:
        model: Maps images, and task labels if ``task_aware``, to logits (n, K).
        layer: Name of the layer whose output is the latent, as in ``model.named_modules()``, or the
            module itself, or the index of a child of an ``nn.Sequential``. ``None`` cuts a model
            with the parts ``compressor`` and ``classifier``, or a sequence of two parts, between
            them, and any other before its last ``nn.Linear``.
        classifier: Name of the part that maps latents to logits, or the module itself. Without
            ``layer`` the model is cut before it.
        task_aware: Whether the model takes the task labels (n,) as its second argument.

    Raises:
        ConfigError: There is no such layer, or no layer can be chosen by default.
        UnsupportedModelError: The model has TorchScript modules.

    Attributes:
        layer: Name of the layer whose output is the latent; ``None`` for the classifier's input.
        classifier: Name of the part that maps latents to logits; ``None`` if there is none, or
            before the first images determine it.
        latent_shape: Shape of one latent, or ``None`` before `check`.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | int | nn.Module | None = None,
        *,
        classifier: str | nn.Module | None = None,
        task_aware: bool = False,
    ) -> None:
        self.model = model
        if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            raise UnsupportedModelError(
                f"The {type(model).__name__} has modules of TorchScript, which run without hooks"
                " and so cannot be cut. Use the modules that were scripted or traced."
            )
        self.layer, self.classifier = find_parts(model, layer, classifier)
        self.task_aware = task_aware
        self.latent_shape: tuple[int, ...] | None = None
        self._prefix: FrozenPrefix | None = None
        self._shape: tuple[int, ...] | None = None
        #: Type of the layer's output.
        self._dtype: torch.dtype | None = None
        self._way = self._ways()[0]

    @property
    def _place(self) -> str:
        """Name of the module at which the model is cut."""
        return required(self.layer or self.classifier, "cut", "check")

    @property
    def _where(self) -> str:
        return f"{'after' if self.layer else 'before'} the layer {self._place!r}"

    @torch.no_grad()
    def encode(self, images: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Returns latents, without gradients and in evaluation mode.

        Args:
            images: Float tensor (n, *shape).
            tasks: int64 tensor (n,), task labels; needed if the model takes them.

        Returns:
            The values at the cut (n, *latent shape).
        """
        tasks = _or_zeros(tasks, images)
        with evaluating(self.model):
            self._find(images, tasks)
            return in_chunks(lambda x, t: self._by_task(self._encode, x, t), images, tasks)

    def answer(
        self, latents: Tensor, tasks: Tensor | None = None, *, model: nn.Module | None = None
    ) -> Tensor:
        """The logits of latents, in the model's current mode.

        Args:
            latents: Float tensor (n, *latent shape), of any floating-point type.
            tasks: int64 tensor (n,), task labels; needed if the model takes them.
            model: A copy of the model, or a grown one, to use in its place.

        Returns:
            Logits (n, K).
        """
        model = self.model if model is None else model
        latents, tasks = latents.as_subclass(Tensor), _or_zeros(tasks, latents)
        if self._dtype is not None:
            latents = latents.to(self._dtype)
        if self._way == "layers":
            for layer in self._behind(model):
                latents = layer(latents, tasks) if self.task_aware else layer(latents)
            return latents
        return self._by_task(lambda x, t: self._replace_latents(model, x, t), latents, tasks)

    def check(self, images: Tensor, tasks: Tensor | None = None) -> tuple[int, ...]:
        """Chooses how to compute the logits of latents; changes nothing in the model.

        Args:
            images: Float tensor (n, *shape); the first few are used.
            tasks: int64 tensor (n,), task labels; needed if the model takes them.

        Returns:
            The shape of one latent.

        Raises:
            UnsupportedModelError: No way reproduces the model's logits: values bypass the layer, it
                runs more than once, or modules are used on both sides of the cut.
        """
        # At least two, to check whether one blank image suffices for several latents.
        several = torch.arange(_CHECKED, device=images.device) % len(images)
        tasks, images = _or_zeros(tasks, images)[several], images[several]
        self._shape = tuple(images.shape[1:])
        with torch.no_grad(), evaluating(self.model):
            self._find(images, tasks)
            latents = self._by_task(self._encode, images, tasks)
            self._dtype = latents.dtype
            expected = self._expected(images, tasks, latents)
            # One task, as a model may run its layers once for each task in a batch.
            one = tasks == tasks[0]
            before, after = run_order(
                self.model,
                self._place,
                lambda: self._forward(self.model, images[one], tasks[one]),
                before=self.layer is None,
            )
            self._way = self._way_that_works(latents, tasks, expected)
        with evaluating(self.model):
            first = depends_on(self.model, lambda: self._by_task(self._encode, images, tasks))
            second = depends_on(self.model, lambda: self.answer(latents, tasks))
        shared = {name for name, module in before.items() if name in after and _has_state(module)}
        shared |= first & second
        if shared:
            raise UnsupportedModelError(
                f"{', '.join(sorted(shared))} is used on both sides of the cut {self._where},"
                " so it can be neither frozen nor trained. Name a layer with such parts on one side"
                " only."
            )
        if not second:
            raise UnsupportedModelError(
                f"No parameters remain to train with a cut {self._where}. Name an earlier layer."
            )
        modules = tuple(name for name in before if name not in after)
        self._prefix = FrozenPrefix(modules, tuple(sorted(first)))
        self.latent_shape = tuple(latents.shape[1:])
        return self.latent_shape

    def freeze(self, prefix: FrozenPrefix | None = None) -> FrozenPrefix:
        """Freezes the part before the cut permanently.

        Args:
            prefix: The part to freeze, returned by an earlier call; ``None`` for that which `check`
                determined.

        Returns:
            The frozen part.
        """
        prefix = required(prefix or self._prefix, "cut", "check")
        prefix.freeze(self.model)
        return prefix

    # Running the two halves

    def _find(self, images: Tensor, tasks: Tensor) -> None:
        """Finds the classifier with the first images, if neither it nor a layer was named."""
        if self.layer is None and self.classifier is None and len(images):
            few = (tasks == tasks[0]).nonzero().flatten()[:_CHECKED]
            batch = images[few], tasks[few]
            self.classifier = find_head(self.model, lambda: self._forward(self.model, *batch))

    def _behind(self, model: nn.Module) -> list[nn.Module]:
        """The layers after the cut, if they run in sequence."""
        layers = layers_behind(model, self._place)
        head = [model.get_submodule(self.classifier)] if self.classifier else []
        if self.layer is None:
            return head + (layers or [])
        return head if layers is None else layers

    def _ways(self) -> list[str]:
        place = self.layer or self.classifier
        if place is not None and layers_behind(self.model, place) is not None:
            return ["layers"]
        # One blank image; or as many as latents, for models that use the batch size of the input.
        return [*(["layers"] if self.classifier else []), "blank", "blanks"]

    def _forward(self, model: nn.Module, images: Tensor, tasks: Tensor) -> Tensor:
        # Compiled code does not call hooks that were added later.
        with torch.compiler.set_stance("force_eager"):
            return logits_of(model, images, tasks, task_aware=self.task_aware)

    def _encode(self, images: Tensor, tasks: Tensor) -> Tensor:
        def reached(module: nn.Module, inputs: tuple[Any, ...], *output: Any) -> None:
            raise _Reached(*(output or inputs[:1] or (None,)))

        try:
            with self._hook(self.model, reached):
                self._forward(self.model, images, tasks)
        except _Reached as reached_cut:
            if isinstance(reached_cut.latents, Tensor):
                return reached_cut.latents
            raise UnsupportedModelError(
                f"The value {self._where} is a {type(reached_cut.latents).__name__}; one tensor is"
                " needed. Name another layer."
            ) from None
        raise UnsupportedModelError(
            f"The layer {self._place!r} does not run in a forward pass. Name one that does."
        )

    def _replace_latents(self, model: nn.Module, latents: Tensor, tasks: Tensor) -> Tensor:
        shape = required(self._shape, "cut", "check")
        n = 1 if self._way == "blank" else len(latents)
        blank = torch.zeros(n, *shape, device=latents.device)

        def replace(module: nn.Module, inputs: tuple[Any, ...], *output: Any) -> Any:
            return latents if output else (latents, *inputs[1:])

        with self._hook(model, replace):
            return self._forward(model, blank, tasks)

    def _hook(self, model: nn.Module, hook: Callable[..., Any]) -> RemovableHandle:
        """Registers a hook at the cut: a forward hook of the layer, or a pre-hook of the head."""
        module = model.get_submodule(self._place)
        if self.layer is None:
            return module.register_forward_pre_hook(hook)
        return module.register_forward_hook(hook)

    def _by_task(self, run: Callable[[Tensor, Tensor], Tensor], x: Tensor, tasks: Tensor) -> Tensor:
        """Runs each task separately for a model with task labels, which may split its input."""
        if not self.task_aware:
            return run(x, tasks)
        groups = [(tasks == t).nonzero().flatten() for t in tasks.unique()]
        if len(groups) < 2:
            return run(x, tasks)
        parts = [run(x[rows], tasks[rows]) for rows in groups]
        width = max(part.shape[1] for part in parts)
        if width > min(part.shape[1] for part in parts):
            parts = [nn.functional.pad(part, (0, width - part.shape[1])) for part in parts]
        return torch.cat(parts)[torch.argsort(torch.cat(groups))]

    # Checks

    def _expected(self, images: Tensor, tasks: Tensor, latents: Tensor) -> Tensor:
        try:
            return self._forward(self.model, images, tasks)
        except UnsupportedModelError:
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"The model fails on images of shape {self._shape}, whose latents"
                f" {self._where} have shape {tuple(latents.shape[1:])}: {error}. The part after"
                " the cut must take latents of that shape."
            ) from error

    def _way_that_works(self, latents: Tensor, tasks: Tensor, expected: Tensor) -> str:
        problem: Exception | None = None
        for way in self._ways():
            self._way = way
            try:
                logits = self.answer(latents, tasks)
            except Exception as error:
                # The user's model may raise any error: try the next way.
                problem = error
                continue
            if agree(logits, expected):
                return way
        raise UnsupportedModelError(
            f"The model cannot be cut {self._where}: the logits of latents differ from those of"
            " the images. Values bypass the layer (a skip connection): name one that all values"
            " pass through, such as the end of a block."
        ) from problem


def _or_zeros(tasks: Tensor | None, samples: Tensor) -> Tensor:
    if tasks is None:
        return torch.zeros(len(samples), dtype=torch.int64, device=samples.device)
    return tasks


def _has_state(module: nn.Module) -> bool:
    return bool([*module.parameters(recurse=False), *module.buffers(recurse=False)])

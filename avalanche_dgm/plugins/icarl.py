"""Avalanche's iCaRL for any classifier that ends with a linear layer."""

from __future__ import annotations

from itertools import chain
from typing import Any

from avalanche.models.dynamic_modules import MultiTaskModule
from avalanche.training.supervised import ICaRL
from torch import nn

from avalanche_dgm.errors import ConfigError


class SplitICaRL(ICaRL):
    """Avalanche's iCaRL (Rebuffi et al. 2017) on a model split before its last linear layer.

    Real images are chosen by herding and stored as floating-point tensors; predictions are by the
    nearest class mean of their features.

    Args:
        model: The classifier. Its last ``nn.Linear`` is replaced by an identity.
        mem_size: Number of images of all classes, rounded up to the same number per class.
        **strategy: Further arguments of ``ICaRL``.

    Raises:
        ConfigError: The model has no linear layer, or a head for each task; or, at the start of
            training, the experience is not the next one of the stream.
    """

    def __init__(self, *, model: nn.Module, mem_size: int = 200, **strategy: Any) -> None:
        layers = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
        if isinstance(model, MultiTaskModule) or not layers or layers[-1] == "":
            raise ConfigError(
                "iCaRL needs a model whose last layer is an nn.Linear, with one head for all"
                f" classes; this one is a {type(model).__name__}."
            )
        above, _, name = layers[-1].rpartition(".")
        head = model.get_submodule(layers[-1])
        setattr(model.get_submodule(above), name, nn.Identity())
        super().__init__(
            feature_extractor=model,
            classifier=head,
            memory_size=mem_size,
            buffer_transform=None,
            fixed_memory=True,
            **strategy,
        )

    def _before_training_exp(self, **kwargs: Any) -> None:
        benchmark = self.experience.benchmark
        classes = [[*e.classes_in_this_experience] for e in benchmark.train_stream]
        position = self.clock.train_exp_counter
        if classes[position : position + 1] != [[*self.experience.classes_in_this_experience]]:
            raise ConfigError(
                "iCaRL learns each experience once, in the order of the stream. Train on the"
                " stream's experiences in order, without revisits."
            )
        # Attributes of Avalanche's class-incremental benchmarks that iCaRL needs.
        benchmark.n_classes_per_exp = [len(c) for c in classes]
        benchmark.classes_order = [*chain.from_iterable(classes)]
        super()._before_training_exp(**kwargs)

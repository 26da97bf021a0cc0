"""Avalanche's iCaRL for any classifier that ends with a linear layer."""

from __future__ import annotations

from itertools import chain
from typing import Any

from avalanche.models.dynamic_modules import MultiTaskModule
from avalanche.training.supervised import ICaRL
from torch import nn

from avalanche_dgm.errors import ConfigError


class SplitICaRL(ICaRL):
    """Avalanche's iCaRL (Rebuffi et al. 2017) on a model that it cuts before the last linear layer.

    Real images are stored, chosen by herding, as the floating-point numbers that the network is
    shown; the nearest mean of their features answers.

    Args:
        model: The classifier. Its last ``nn.Linear`` is taken out of it.
        mem_size: Images, of all classes together; rounded up to as many of each.
        **strategy: Further arguments of ``ICaRL``.

    Raises:
        ConfigError: The model has no linear layer, or one head a task; or, when training begins,
            the experiences do not come in the stream's order, each once.
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
                "iCaRL learns each experience once, in the order of the stream. Leave revisits and"
                " other orders out."
            )
        # What Avalanche's own class-incremental benchmarks have, and iCaRL asks for.
        benchmark.n_classes_per_exp = [len(c) for c in classes]
        benchmark.classes_order = [*chain.from_iterable(classes)]
        super()._before_training_exp(**kwargs)

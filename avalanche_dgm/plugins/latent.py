"""Latent replay as an Avalanche plugin."""

from __future__ import annotations

from typing import Any

from torch import nn

from avalanche_dgm.errors import ConfigError, UnsupportedModelError
from avalanche_dgm.methods import LatentReplay
from avalanche_dgm.plugins.experiences import TaskOracle
from avalanche_dgm.plugins.wrapping import WrappingPlugin
from avalanche_dgm.signatures import takes_arguments_of


@takes_arguments_of(LatentReplay)
class LatentReplayPlugin(WrappingPlugin):
    """Latent replay (Saez de Ocariz Borde 2022) for any model and strategy.

    Say where the model is cut: by the name of a layer, or by its two parts. After the first
    experience what comes before the cut is frozen, and the rest goes on learning from new and from
    remembered latents::

        strategy = Naive(model=net, optimizer=opt, plugins=[LatentReplayPlugin(layer="features.3")])

    ``strategy.model`` is wrapped, see `WrappingPlugin`.

    Args:
        layer: Name of the last layer before the cut; see `avalanche_dgm.methods.LatentReplay`.
        compressor: The part of the strategy's model before the cut, instead of ``layer``.
        classifier: The part that maps latents to logits, or its name.
        seed: Seed of what is drawn; ``None`` follows ``torch.manual_seed``.
        oracle: How tasks are told apart in training; see `MethodPlugin`.
        progress: Whether to show progress bars.
        **hyper: Any other argument of `avalanche_dgm.methods.LatentReplay`.

    Raises:
        ConfigError: A hyper-parameter is unknown or cannot work.
    """

    method: LatentReplay

    def __init__(
        self,
        *,
        layer: str | int | None = None,
        compressor: nn.Module | None = None,
        classifier: nn.Module | str | None = None,
        seed: int | None = None,
        oracle: str | TaskOracle = "auto",
        progress: bool = False,
        **hyper: Any,
    ) -> None:
        if layer is not None and compressor is not None:
            raise ConfigError("Give layer or compressor, not both: each says where the cut is.")
        name = classifier if isinstance(classifier, str) else None
        method = LatentReplay(layer=layer, classifier=name, seed=seed, **hyper)
        super().__init__(method, oracle=oracle, progress=progress)
        self._compressor = compressor
        self._classifier = classifier if isinstance(classifier, nn.Module) else None

    def attach(self, model: nn.Module) -> None:
        """See `MethodPlugin.attach`; finds the parts in the model first."""
        if not isinstance(model, nn.Module):
            raise UnsupportedModelError(
                f"The strategy's model is a {type(model).__name__}, not a torch.nn.Module."
            )
        if self._compressor is not None:
            self.method.layer = name_of(model, self._compressor, "compressor")
        if self._classifier is not None:
            self.method.classifier = name_of(model, self._classifier, "classifier")
        super().attach(model)


def name_of(model: nn.Module, part: nn.Module, what: str) -> str:
    """The name that a model has for one of its parts.

    Args:
        model: The model.
        part: The very object.
        what: How messages call it.

    Raises:
        ConfigError: It is no part of the model.
    """
    for name, module in model.named_modules():
        if module is part and name:
            return name
    raise ConfigError(
        f"The {what} is no part of the strategy's model. Build the model of the very same objects,"
        " for example model=torch.nn.Sequential(compressor, classifier)."
    )

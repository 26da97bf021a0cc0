"""The compatibility of Avalanche's plugins and strategies with ours, checked before training.

The documentation includes the table, and a test runs each pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from avalanche_dgm.errors import ConfigError, UnsupportedModelError
from avalanche_dgm.methods import Method

#: Kinds of our plugins, and how they change the strategy's training.
KINDS = {
    "batch": "replays into the strategy's batches",
    "latents": "replays latents",
    "own": "trains its own networks",
    "closed": "computes its classifier, and trains nothing",
}

_NAMES = "it stores parameters by name, and wrapping the model changes the names"
_ANOTHER = "it needs the unwrapped model"
_NEW = "each task has a new learner, which has not learned older tasks"
_SKIPPED = "the strategy takes no steps"
_EMBEDDINGS = "the model returns embeddings or prototypes instead of logits"
_OWN_LOSS = "its loss is not only the criterion, so replay cannot be weighted against it"
_NO_STEP = "its training loop has no step to which replay could be added"
_ROWS = "it reads the batch or its features while they include replayed samples"
_GENERATES = "it replays generated samples itself"
_COPIES = "it replaces the model by a copy, which the method does not train"
_HEAD = "it overwrites the last layer's weights after replay"
_FIXED = "it protects the weights of older tasks by its own architecture"


@dataclass(frozen=True)
class Partner:
    """The compatibility of an Avalanche class and its subclasses with our plugins.

    Attributes:
        name: The class's name.
        batch: Why it does not work with plugins of the kind ``"batch"``; ``None`` if it does.
        latents: The same for ``"latents"``.
        own: The same for ``"own"``.
        closed: The same for ``"closed"``.
        setting: Name and value of an attribute, if the row is only for instances with it.
    """

    name: str
    batch: str | None = None
    latents: str | None = None
    own: str | None = None
    closed: str | None = None
    setting: tuple[str, Any] | None = None

    @property
    def title(self) -> str:
        """The name, with the setting."""
        return self.name if self.setting is None else "{}({}={!r})".format(self.name, *self.setting)

    def matches(self, part: Any) -> bool:
        """Whether the row applies to a plugin, strategy or model."""
        kinds = type(part).__mro__
        named = any(
            k.__name__ == self.name and k.__module__.startswith("avalanche.") for k in kinds
        )
        if self.setting is None:
            return named
        return named and getattr(part, self.setting[0], None) == self.setting[1]


def _refused(name: str, reason: str) -> Partner:
    return Partner(name, batch=reason, latents=reason, own=reason, closed=reason)


PARTNERS = (
    Partner("ReplayPlugin"),
    Partner("LwFPlugin"),
    Partner("EWCPlugin", setting=("mode", "online"), own=_NEW, closed=_SKIPPED),
    Partner("EWCPlugin", closed=_SKIPPED),
    Partner("SynapticIntelligencePlugin"),
    Partner("LRSchedulerPlugin"),
    Partner("EarlyStoppingPlugin"),
    Partner("AGEMPlugin", own=_NEW, closed=_SKIPPED),
    Partner("GEMPlugin", own=_NEW, closed=_SKIPPED),
    Partner("MASPlugin", own=_NEW, closed=_SKIPPED),
    Partner("RWalkPlugin", latents=_NAMES, own=_NEW, closed=_SKIPPED),
    Partner("LFLPlugin", latents=_ANOTHER, own=_NEW, closed=_SKIPPED),
    Partner("MIRPlugin", latents="it needs gradients of frozen layers", own=_NEW, closed=_SKIPPED),
    Partner("RARPlugin", latents=_ANOTHER, own=_NEW, closed=_SKIPPED),
    Partner("FromScratchTrainingPlugin", latents=_NAMES, own=_NAMES, closed=_NAMES),
    Partner("Cumulative"),
    _refused("FeatureDistillationPlugin", _ROWS),
    _refused("GSS_greedyPlugin", _ROWS),
    _refused("GDumbPlugin", _COPIES),
    _refused("CWRStarPlugin", _HEAD),
    _refused("BiCPlugin", _OWN_LOSS),
    _refused("CoPEPlugin", _EMBEDDINGS),
    _refused("GenerativeReplayPlugin", _GENERATES),
    _refused("TrainGeneratorAfterExpPlugin", _GENERATES),
    _refused("PackNetPlugin", _FIXED),
    _refused("PNN", _FIXED),
    _refused("PackNetModule", _FIXED),
    _refused("TrainEvalModel", _EMBEDDINGS),
    _refused("FeatureExtractorModel", _EMBEDDINGS),
    _refused("DER", _OWN_LOSS),
    _refused("ER_ACE", _OWN_LOSS),
    _refused("ER_AML", _OWN_LOSS),
    _refused("FeatureReplay", _ROWS),
    _refused("SCR", _EMBEDDINGS),
    _refused("ICaRL", _EMBEDDINGS),
    _refused("AR1", _OWN_LOSS),
    _refused(
        "LearningToPrompt",
        "its logits of older classes are minus infinity, so replay has no effect",
    ),
    _refused("ExpertGateStrategy", _FIXED),
    _refused("StreamingLDA", _NO_STEP),
    _refused("SupervisedMetaLearningTemplate", _NO_STEP),
    _refused(
        "JointTraining", "it trains on all experiences at once, so there is nothing to replay"
    ),
    _refused("AETraining", "it trains no classifier"),
    _refused("VAETraining", "it trains no classifier"),
)


def check_partners(strategy: Any, plugin: Any) -> None:
    """Checks that a strategy, its plugins and its model are compatible with one of our plugins.

    Raises:
        ConfigError: One of them is not, or the plugin was trained with another model.
        UnsupportedModelError: The model is wrapped by another plugin.
    """
    name, learner, method = type(plugin).__name__, plugin.learner_of(strategy), plugin.method
    ours = [p for p in strategy.plugins if isinstance(getattr(p, "method", None), Method)]
    if len(ours) > 1:
        raise ConfigError(
            f"The strategy has {' and '.join(type(p).__name__ for p in ours)} among its plugins."
            " Each replays samples and weights the loss, so use one of them, once."
        )
    wrapper = getattr(strategy.model, "method", None)
    if isinstance(wrapper, Method) and all(wrapper is not m for m in method.modules()):
        raise UnsupportedModelError(
            f"The strategy's model is wrapped by the plugin of another {type(wrapper).__name__}."
            " Give the strategy the model that the other plugin's finish(strategy) returns."
        )
    if method.experiences and method.learner is not None and method.learner is not learner:
        raise ConfigError(
            f"This {name} was trained with another model, whose predictions label its replay. Use a"
            " new plugin for the new model, or give the strategy the old model."
        )
    for part in (strategy, *strategy.plugins, learner):
        partner = next((p for p in PARTNERS if p.matches(part)), None)
        reason = getattr(partner, plugin.partner_kind) if partner is not None else None
        if partner is None or reason is None:
            continue
        title = type(part).__name__
        title = partner.title if title == partner.name else f"{title} ({partner.title})"
        raise ConfigError(
            f"{name} does not work with {title}: {reason}. Remove one of them; the page 'Partners'"
            " of the documentation lists compatible plugins and strategies."
        )


def table() -> str:
    """The table in Markdown, one row per partner."""
    lines = ["| Avalanche | " + " | ".join(KINDS) + " | reason |", "|" + "---|" * (len(KINDS) + 2)]
    for partner in PARTNERS:
        cells = [getattr(partner, kind) for kind in KINDS]
        verdicts = ["works" if cell is None else "refused" for cell in cells]
        reasons = "; ".join(dict.fromkeys(cell for cell in cells if cell is not None))
        lines.append(f"| `{partner.title}` | " + " | ".join(verdicts) + f" | {reasons} |")
    return "\n".join(lines) + "\n"

"""Settings of latent replay, and the values of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from torch import nn

from avalanche_dgm.checks import one_of, whole
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.generators import Generator
from avalanche_dgm.memories.generated_latents import GeneratedLatents, make_memory
from avalanche_dgm.memories.generative import MemorySettings
from avalanche_dgm.memories.stored_latents import StoredLatents, StoredLatentsSettings
from avalanche_dgm.methods.finetuning import FinetuningSettings
from avalanche_dgm.settings import MethodSettings


@dataclass(frozen=True, kw_only=True)
class LatentReplaySettings(
    FinetuningSettings, MethodSettings, MemorySettings, StoredLatentsSettings
):
    """Settings of latent replay.

    The settings of `MemorySettings` are for ``memory="vae"``, the autoencoder over latents; those
    of `StoredLatentsSettings` are for ``memory="stored"``. ``memory_budget`` applies to every
    memory. ``at_rest`` and ``covariance`` also apply to ``memory="density"``, where ``None``
    chooses the covariance that fits into ``memory_budget``, or into a tenth of the latents' bytes.

    Attributes:
        layer: Name of the compressor's last layer, as in ``model.named_modules()``, or the module
            itself, or the index of a child of an ``nn.Sequential``. ``None`` cuts a model with the
            parts ``compressor`` and ``classifier``, or a sequence of two parts, between them, and
            any other before its last ``nn.Linear``.
        compressor: Another name of ``layer``.
        classifier: Name of the part that maps latents to logits, or the module itself. Without
            ``layer`` the model is cut before it; with ``layer`` it only makes training faster.
        memory: The memory of latents: ``"stored"``, some of them unchanged; ``"density"``, a
            Gaussian per class; ``"vae"``, an autoencoder over latents; or an untrained
            `StoredLatents` or `Generator` of vectors, which is copied.
        schedule: ``"mixed"``: new and old latents in each step; ``"alternating"``: a step on old
            ones after each on new ones (the paper).
        freeze_after: Experiences before the compressor is frozen; 0 for a pretrained network. Above
            1, *images* are stored (as ``dtype``) and replayed until then, and encoded when the
            compressor is frozen.
        encode_once: Whether a new experience is encoded once, without augmentations, or in each
            batch. ``None`` encodes once unless the experience is augmented.
        replay_size: Replayed latents per step; ``None`` for as many as are new, ``"all"`` for
            all that are stored.
        labels: Labels of replayed latents: ``"soft"``, the previous classifier's probabilities over
            the classes it knew; ``"hard"``, their classes (the paper). ``None`` for soft labels of
            stored latents and hard labels of generated ones.
        temperature: Temperature of the softmax of soft labels, above 0.
    """

    layer: str | int | nn.Module | None = None
    compressor: str | nn.Module | None = None
    classifier: str | nn.Module | None = None
    memory: StoredLatents | Generator | Literal["stored", "density", "vae"] = "stored"
    schedule: Literal["mixed", "alternating"] = "mixed"
    freeze_after: int = field(default=1, metadata={"least": 0})
    encode_once: bool | None = None
    replay_size: int | Literal["all"] | None = None
    temperature: float = field(default=1.0, metadata={"above": 0})
    # Latents are unbounded, and vary more than images.
    likelihood: Literal["auto", "bernoulli", "gaussian"] = "gaussian"
    kl_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.generator != "vae":
            raise ConfigError("Give a generator of latents as memory=, not as generator=.")
        super().__post_init__()
        if self.layer is not None and self.compressor is not None:
            raise ConfigError("Give layer or compressor, not both: each sets the cut.")
        stored = StoredLatentsSettings.names() - {"memory_budget"}
        if self.memory == "density":
            stored -= {"covariance", "at_rest"}
        vae = MemorySettings.names() - {"labels", "temperature", "memory_budget"}
        if self.memory_budget is not None and not isinstance(self.memory, str):
            raise ConfigError("Give memory_budget to the memory when you create it.")
        self.check_owners("memory", {"stored": stored, "vae": vae})
        if self.replay_size != "all":
            whole("replay_size", self.replay_size, optional=True, otherwise=", or 'all'")
        generated = self.memory != "stored" and not isinstance(self.memory, StoredLatents)
        if self.replay_size == "all" and generated:
            raise ConfigError(
                "replay_size='all' is for stored latents; this memory generates them."
                " Give a number, or leave it out for as many as are new."
            )
        if self.finetune_data == "generated" and not generated:
            raise ConfigError(
                "finetune_data='generated' is for a memory that generates latents:"
                " memory='density', for example."
            )
        self.make_memory()

    @property
    def soft_labels(self) -> bool:
        stored = self.memory == "stored" or isinstance(self.memory, StoredLatents)
        return self.labels == "soft" or (self.labels is None and stored)

    def make_memory(self) -> StoredLatents | GeneratedLatents:
        """Makes the memory of latents.

        Raises:
            ConfigError: There is no such memory, or it cannot work.
        """
        vae, stored = self.part(MemorySettings), self.part(StoredLatentsSettings)
        memory = make_memory(self.memory, vae=vae, stored=stored)
        if self.freeze_after > 1 and isinstance(memory, GeneratedLatents):
            raise ConfigError(
                f"freeze_after={self.freeze_after} with a memory that generates latents would"
                " forget all experiences before the last of these: latents of a compressor that is"
                " still trained become invalid. Use memory='stored', which keeps some images until"
                " then, or freeze_after=1."
            )
        return memory


#: Replay after each new batch: all stored latents, which the paper calls "the latent space memory"
#: (Sec. 5), or as many as the batch has samples.
UPDATES: Mapping[str, str | None] = MappingProxyType({"memory": "all", "batch": None})


def paper_hyper(update: str = "memory") -> dict[str, Any]:
    """Hyper-parameters of `LatentReplay` in the paper: stored latents and hard labels.

    Args:
        update: ``"memory"`` or ``"batch"``, see `UPDATES`.

    Raises:
        ConfigError: There is no such update.
    """
    one_of("update", update, *UPDATES)
    return {
        "schedule": "alternating",
        "replay_size": UPDATES[update],
        "covariance": False,
        "jitter": 0.0,
        "labels": "hard",
    }


def compact(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Stores latents as uint8 and covariances as float16."""
    stored = settings.get("memory", "stored") == "stored"
    return {"dtype": "uint8", "at_rest": "float16"} if stored else {}


def fast(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings for smoke tests: few steps of a generator."""
    return {"generator_steps": 30} if settings.get("memory") == "vae" else {}

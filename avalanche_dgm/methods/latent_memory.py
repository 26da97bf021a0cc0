"""Which memory of latents a method has: stored ones, or one that generates them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.memories.latent import GenerativeLatents, LatentDensity, LatentVAE
from avalanche_dgm.memories.settings import MemorySettings
from avalanche_dgm.memories.stored_latents import StoredLatents
from avalanche_dgm.settings import make_settings, one_of

#: What is stored of each experience's samples unless a size is given.
DEFAULT_SIZE = {"share": 0.05, "least": 10, "grows": False}
#: Settings of ``memory="vae"`` that differ from `MemorySettings`: latents have no bounds, and vary
#: in more ways than images do.
LATENT_VAE = {"likelihood": "gaussian", "kl_weight": 0.1}
_MEMORIES = ("stored", "density", "vae")


def make_latent_memory(
    memory: str,
    size: Mapping[str, Any],
    dtype: str,
    covariance: bool | None,
    jitter: float | None,
    freeze_after: int,
    hyper: Mapping[str, Any],
) -> tuple[StoredLatents | None, GenerativeLatents | None]:
    """Makes the memory that `LatentReplay` is asked for; its arguments are explained there.

    Args:
        memory: ``"stored"``, ``"density"`` or ``"vae"``.
        size: How much is stored, as given; empty for the default.
        dtype: How it is stored.
        covariance: Whether classes' covariances are kept beside it.
        jitter: Noise on it.
        freeze_after: Experiences before the compressor is frozen.
        hyper: Fields of `MemorySettings`, for ``"vae"``.

    Returns:
        The memory of stored latents or ``None``, and the one that generates or ``None``.

    Raises:
        ConfigError: An argument is unknown, cannot work, or is for another memory.
    """
    one_of("memory", memory, *_MEMORIES)
    if memory != "stored":
        more = {"dtype": dtype != "float32", "covariance": bool(covariance), "jitter": jitter}
        given = [*size, *(name for name, said in more.items() if said)]
        if given:
            raise ConfigError(
                f"{', '.join(given)} is for memory='stored'; {memory!r} stores nothing."
            )
        if freeze_after > 1:
            raise ConfigError(
                f"freeze_after={freeze_after} with memory={memory!r} would forget what comes"
                " before the last of these experiences: latents of a compressor that still"
                " learns cannot be remembered. Use memory='stored', which keeps some images"
                " until then, or freeze_after=1."
            )
    if hyper and memory != "vae":
        # An unknown name says so first.
        make_settings(MemorySettings, dict(hyper))
        raise ConfigError(f"{', '.join(sorted(hyper))} is for memory='vae', which has a generator.")
    if memory == "stored":
        stored = {"dtype": dtype, **(size or DEFAULT_SIZE)}
        return StoredLatents(covariance=covariance, jitter=jitter, **stored), None
    if memory == "density":
        return None, LatentDensity()
    return None, LatentVAE(make_settings(MemorySettings, {**LATENT_VAE, **hyper}))

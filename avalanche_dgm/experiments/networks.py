"""Which network a run trains, by its stream and method, and what of the settings shapes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from avalanche_dgm.errors import ConfigError

if TYPE_CHECKING:
    from avalanche_dgm.experiments.config import ExperimentConfig

MLP, LATENT, ALEXNET = "mlp", "latent replay network", "AlexNet-like network"

TURNTABLES = ("turntable", "turntable-domains")
"""The streams of the A-LTM paper."""


def network_of(
    method: str, stream: str, *, task_labels: bool | None = None, paper: bool = False
) -> str:
    """Says which network is trained.

    A stream's methods share one network, so that a table compares methods. The exception is
    latent replay, which needs a convolutional compressor wherever it runs.

    Args:
        method: Name of the method.
        stream: Name of the stream.
        task_labels: The stream's option of that name; ``None`` for its default.
        paper: Whether the DGDMN paper's settings are asked for; its networks are dense.

    Returns:
        ``MLP``, ``LATENT`` or ``ALEXNET``.
    """
    if paper:
        return MLP
    if method == "latent-replay":
        return LATENT
    if stream in TURNTABLES:
        return ALEXNET
    # With a head for each experience it is not the paper's problem, nor its network.
    return LATENT if stream == "latent-split" and not task_labels else MLP


def shape_of(network: str, *, fast: bool = False) -> dict[str, Any]:
    """Returns the settings that a network is made with if none are given.

    Args:
        network: What `network_of` returned.
        fast: Make it tiny.
    """
    if network == LATENT:
        return {"hidden": (), "dropout": 0.0}
    if network == ALEXNET:
        return {"hidden": (32,) if fast else (256,)}
    return {"hidden": (32, 32)} if fast else {}


def check_network(config: ExperimentConfig) -> None:
    """Checks, before data are loaded, that a config's network can be made as it says.

    Args:
        config: The run's settings.

    Raises:
        ConfigError: Hidden units or dropout are given for a network that has no place for them.
    """
    network = network_of_config(config)
    if network == LATENT and (config.hidden or config.dropout):
        raise ConfigError(
            f"{config.method} on {config.stream} trains the network of the latent replay paper,"
            " whose layers are fixed and have no dropout. Leave --hidden, --dropout and the method"
            " dropout out."
        )
    if network == ALEXNET and len(config.hidden) != 1:
        raise ConfigError(
            f"{config.stream} is learned by five convolutions and two dense layers of the same"
            f" width: --hidden takes one number there, not {len(config.hidden)}."
        )


def network_of_config(config: ExperimentConfig) -> str:
    """Says which network a config asks for; see `network_of`."""
    return network_of(
        config.method,
        config.stream,
        task_labels=config.stream_options.get("task_labels"),
        paper=config.paper,
    )

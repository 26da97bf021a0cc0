"""Registry of streams by name, for the command line and experiments."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.streams.classes import SplitOptions, digits, photos, sklearn_digits, split
from avalanche_dgm.streams.latent_split import latent_split
from avalanche_dgm.streams.transformed import permnist, tdigits
from avalanche_dgm.streams.turntables import turntable, turntable_domains

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario


@dataclass(frozen=True)
class StreamSpec:
    """A registered stream.

    Attributes:
        builder: The function that builds it.
        description: One line for lists.
        input_shape: Shape (C, H, W) of an image; empty if it depends on the user's data.
        n_classes: Number of classes with the default options; 0 if it depends on the user's data.
        n_experiences: Number of experiences with the default options.
        defaults: Arguments of ``builder`` for this stream.
        embedded: Whether its data are part of installed packages, so that it needs no data root.
    """

    builder: Callable[..., CLScenario]
    description: str
    input_shape: tuple[int, ...]
    n_classes: int
    n_experiences: int
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    embedded: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """The options that ``make_stream`` takes for this stream."""
        names = [*inspect.signature(self.builder).parameters]
        if "options" in names:
            names += SplitOptions.__annotations__
        return tuple(name for name in names if name not in ("root", "options"))


def _split(
    data: str, what: str, shape: tuple[int, int, int], n_classes: int, n_experiences: int
) -> StreamSpec:
    each = n_classes // n_experiences
    return StreamSpec(
        split,
        f"{what}: {n_experiences} experiences of {each} classes",
        shape,
        n_classes,
        n_experiences,
        {"data": data, "n_experiences": n_experiences},
    )


STREAMS: Mapping[str, StreamSpec] = MappingProxyType(
    {
        "sklearn-digits": StreamSpec(
            sklearn_digits,
            "8x8 digits shipped with scikit-learn: 10 experiences of one class",
            (1, 8, 8),
            10,
            10,
            {"n_experiences": 10},
            embedded=True,
        ),
        "sklearn-digits-5x2": StreamSpec(
            sklearn_digits,
            "8x8 digits shipped with scikit-learn: 5 experiences of two classes",
            (1, 8, 8),
            10,
            5,
            {"n_experiences": 5},
            embedded=True,
        ),
        "digits": StreamSpec(
            digits,
            "MNIST, one digit an experience (DGDMN paper)",
            (1, 28, 28),
            10,
            10,
            {"n_experiences": 10},
        ),
        "permnist": StreamSpec(
            permnist, "MNIST under six transforms (DGDMN paper)", (1, 28, 28), 10, 6
        ),
        "tdigits": StreamSpec(
            tdigits, "MNIST's digits in four orientations (DGDMN paper)", (1, 28, 28), 40, 40
        ),
        "latent-split": StreamSpec(
            latent_split,
            "MNIST (or dataset=...), two experiences of five classes (latent replay paper)",
            (1, 28, 28),
            10,
            2,
        ),
        "photos": StreamSpec(
            photos, "your own folder with train/<class>/ and test/<class>/", (), 0, 5
        ),
        "turntable": StreamSpec(
            turntable,
            "vehicles on a turntable: 10 categories, then 88 viewpoints (A-LTM paper)",
            (1, 32, 32),
            88,
            2,
            embedded=True,
        ),
        "turntable-domains": StreamSpec(
            turntable_domains,
            "viewpoints of vehicles, then digits or another set, domain=... (A-LTM paper)",
            (1, 32, 32),
            88,
            2,
        ),
        "split-mnist": _split("MNIST", "MNIST", (1, 28, 28), 10, 5),
        "split-fashion-mnist": _split("FashionMNIST", "Fashion-MNIST", (1, 28, 28), 10, 5),
        "split-kmnist": _split("KMNIST", "Kuzushiji-MNIST", (1, 28, 28), 10, 5),
        "split-svhn": _split("SVHN", "Street View House Numbers", (3, 32, 32), 10, 5),
        "split-cifar10": _split("CIFAR10", "CIFAR-10", (3, 32, 32), 10, 5),
        "split-cifar100": _split("CIFAR100", "CIFAR-100", (3, 32, 32), 100, 10),
    }
)
"""All registered streams by name."""


def make_stream(
    name: str, data_root: str | os.PathLike[str] | None = None, **options: Any
) -> CLScenario:
    """Builds a stream by its name.

    Args:
        name: A key of ``STREAMS``.
        data_root: Folder of data sets in torchvision's layout; ``None`` for
            ``AVALANCHE_DGM_DATA``. Streams that are embedded do not use it.
        **options: The stream's options, ``STREAMS[name].options``.

    Returns:
        The benchmark.

    Raises:
        ConfigError: The name or an option is unknown, or an option is out of range.
        DataError: The data cannot be found or read.
    """
    if name not in STREAMS:
        raise ConfigError(f"Unknown stream: '{name}'. Available: {', '.join(STREAMS)}.")
    spec = STREAMS[name]
    unknown = sorted(set(options) - set(spec.options))
    if unknown:
        raise ConfigError(
            f"The stream '{name}' has no option {', '.join(unknown)}. It has"
            f" {', '.join(spec.options)}."
        )
    if isinstance(options.get("data"), str):
        raise ConfigError(
            f"The stream '{name}' is of {spec.defaults['data']}; its option data only takes a pair"
            " of folders (training, test). Use another stream for another named set."
        )
    arguments = {**spec.defaults, **options}
    if not spec.embedded:
        arguments["root"] = data_root
    return spec.builder(**arguments)

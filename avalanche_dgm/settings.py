"""Hyper-parameters: frozen dataclasses."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, TypeVar, get_type_hints

from avalanche_dgm.checks import check_range, one_of, positive, whole, widths
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.fitting import OptimizerSpec

__all__ = [
    "MethodSettings",
    "Settings",
    "check_range",
    "make_settings",
    "one_of",
    "plain",
    "positive",
    "whole",
    "widths",
]

S = TypeVar("S", bound="Settings")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Hyper-parameters; an object that exists is valid.

    Attributes:
        deprecated: Former names of settings, each with its present one, for one release.
        deprecated_values: Former values of settings, by the present name of the setting.
    """

    deprecated: ClassVar[Mapping[str, str]] = {}
    deprecated_values: ClassVar[Mapping[str, Mapping[Any, Any]]] = {}

    def __post_init__(self) -> None:
        """Checks the values; subclasses extend it."""

    def __deepcopy__(self: S, memo: dict[int, Any]) -> S:
        """Itself: it never changes."""
        return self

    @classmethod
    def names(cls) -> set[str]:
        """The names of the settings."""
        return {f.name for f in fields(cls)}

    def given(self) -> list[str]:
        """Names of the settings that are not at their defaults."""
        changed = []
        for f in fields(self):
            default = f.default if f.default_factory is MISSING else f.default_factory()
            value = getattr(self, f.name)
            if value is not default and value != default:
                changed.append(f.name)
        return changed

    def part(self, kind: type[S], **changes: Any) -> S:
        """Those of these settings that another class has.

        Args:
            kind: The class, such as a base class of this one.
            **changes: Settings that shall differ.
        """
        mine = {name: getattr(self, name) for name in kind.names() & self.names()}
        return kind(**{**mine, **changes})

    def to_dict(self) -> dict[str, Any]:
        """All settings by name, each as a value that JSON has; see `plain`."""
        return {name: plain(getattr(self, name)) for name in (f.name for f in fields(self))}

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """What a function takes that makes such settings: ``settings``, and each one by name."""
        hints = get_type_hints(cls)
        keyword = inspect.Parameter.KEYWORD_ONLY
        found = [inspect.Parameter("settings", keyword, default=None, annotation=cls | None)]
        for f in fields(cls):
            default = f.default if f.default_factory is MISSING else f.default_factory()
            if default is MISSING:
                default = inspect.Parameter.empty
            found.append(
                inspect.Parameter(f.name, keyword, default=default, annotation=hints[f.name])
            )
        return found

    def _read_optimizers(self) -> None:
        """Makes an `OptimizerSpec` of every setting that says how something is trained."""
        for name in (f.name for f in fields(self) if f.name.endswith("_optimizer")):
            object.__setattr__(self, name, OptimizerSpec.read(name, getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class MethodSettings(Settings):
    """What every method has.

    Attributes:
        seed: Seed of everything random in the method, from 0 to 2**63 - 1; ``None`` takes one from
            PyTorch's global generator at the first draw.
    """

    seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        if self.seed is not None and not (whole_number and 0 <= self.seed < 2**63):
            raise ConfigError(
                f"seed={self.seed!r} must be a whole number from 0 to 2**63 - 1, or None."
            )


def plain(value: Any) -> Any:
    """A setting as numbers, strings, lists and dictionaries; nothing is copied.

    Args:
        value: The setting. Of an object that has settings these are kept under the name of its
            class, of any other only that name: a string such as ``"<function>"``.
    """
    if hasattr(value, "tolist"):
        # Numbers and arrays of NumPy's, and tensors.
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Settings):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    name = type(value).__name__
    settings = getattr(value, "settings", None)
    return {name: settings.to_dict()} if isinstance(settings, Settings) else f"<{name}>"


def present(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Puts present names and values in place of deprecated ones, each with a `FutureWarning`.

    Args:
        kind: The settings' class.
        values: Names and values given by the user; unknown names stay as they are.

    Raises:
        ConfigError: A setting is given under its former and its present name.
    """
    found: dict[str, Any] = {}
    names, former = (_collected(kind, each) for each in ("deprecated", "deprecated_values"))
    for given, value in values.items():
        name = names.get(given, given)
        if name != given and name in values:
            raise ConfigError(f"{given} is the former name of {name}; give {name} alone.")
        # Values of other settings need not be hashable.
        new = former.get(name, {}).get(value, value) if isinstance(value, str) else value
        if name != given or new is not value:
            warnings.warn(
                f"{given}={value!r} is deprecated; use {name}={new!r}.", FutureWarning, stacklevel=2
            )
        found[name] = new
    return found


def _collected(kind: type, attribute: str) -> dict[str, Any]:
    """The entries of a mapping that a class and its bases have."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        found |= vars(base).get(attribute, {})
    return found


def make_settings(kind: Callable[..., S], values: Mapping[str, Any], *, base: Any = None) -> S:
    """Builds settings from keyword arguments, with an error that lists the names that exist.

    Deprecated names and values are taken with a `FutureWarning`.

    Args:
        kind: The settings' class.
        values: Names and values given by the user.
        base: Settings of that class in which the values replace others; ``None`` for the defaults.

    Raises:
        ConfigError: A name is unknown, a value cannot work, or ``base`` is of another class.
    """
    values = present(kind, values)
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(
            f"Unknown hyper-parameter {', '.join(unknown)}. There are: {', '.join(sorted(known))}."
        )
    if base is None:
        return kind(**values)
    if type(base) is not kind:
        name = getattr(kind, "__name__", str(kind))
        raise ConfigError(f"settings is a {type(base).__name__}; a {name} is needed.")
    return replace(base, **values)

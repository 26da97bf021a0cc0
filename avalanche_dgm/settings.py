"""Hyper-parameters: frozen dataclasses that check their fields by the annotations."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass, replace
from textwrap import dedent
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from avalanche_dgm.checks import check_range, check_widths, number, one_of, read_bytes, whole
from avalanche_dgm.errors import ConfigError

S = TypeVar("S", bound="Settings")
P = TypeVar("P", bound="Plain")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Hyper-parameters, checked on construction.

    Fields are checked by their annotations: ``Literal``, integers (of at least 1, or the field's
    metadata ``least``), tuples of integers, see `check_widths`, ranges of intensities; and by the
    field's metadata: bounds of numbers, see `number`, or ``"bytes"``. A mapping is converted to an
    `avalanche_dgm.optimizers.OptimizerSpec` if the annotation is one. A subclass makes further
    checks in ``__post_init__``, after that of the base class.

    Attributes:
        deprecated: Deprecated names of settings, each with its current one, for one release.
        deprecated_values: Deprecated values of settings, by the current name of the setting.
    """

    deprecated: ClassVar[Mapping[str, str]] = {}
    deprecated_values: ClassVar[Mapping[str, Mapping[Any, Any]]] = {}

    def __post_init__(self) -> None:
        check_fields(self)

    def __deepcopy__(self: S, memo: dict[int, Any]) -> S:
        """Itself, as it is immutable; but modules that are being copied are replaced."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        copies = {n: memo[id(v)] for n, v in values.items() if memo.get(id(v), v) is not v}
        return replace(self, **copies) if copies else self

    @classmethod
    def names(cls) -> set[str]:
        """The names of the settings."""
        return {f.name for f in fields(cls)}

    def given(self) -> list[str]:
        """Names of the settings that are not at their defaults."""
        pairs = {f.name: (getattr(self, f.name), _default(f)) for f in fields(self)}
        # Identity first, as tensors and arrays cannot be compared by value.
        return [name for name, (a, b) in pairs.items() if a is not b and a != b]

    def check_owners(self, choice: str, owners: Mapping[str, Iterable[str]]) -> None:
        """Checks that settings of one choice are not given with another choice.

        Args:
            choice: Name of the choice, such as ``"replay"``.
            owners: The names of the settings of each of its values.

        Raises:
            ConfigError: A setting is given with another choice.
        """
        for owner, names in owners.items():
            foreign = sorted(set(self.given()) & set(names))
            if foreign and getattr(self, choice) != owner:
                raise ConfigError(
                    f"{', '.join(foreign)} is for {choice}={owner!r}. Give settings of an object"
                    " when you create it."
                )

    def part(self, kind: type[S], **changes: Any) -> S:
        """Settings of another class with the values of these.

        Args:
            kind: The class, such as a base class of this one.
            **changes: Values that replace these.
        """
        mine = {name: getattr(self, name) for name in kind.names() & self.names()}
        return kind(**{**mine, **changes})

    def to_dict(self) -> dict[str, Any]:
        """All settings by name, as JSON values; see `plain`."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """Parameters of a function that takes ``settings``, or each setting by name."""
        hints = get_type_hints(cls)
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter("settings", keyword, default=None, annotation=cls | None)]
        for f in fields(cls):
            default = _default(f)
            default = inspect.Parameter.empty if default is MISSING else default
            parameters.append(
                inspect.Parameter(f.name, keyword, default=default, annotation=hints[f.name])
            )
        return parameters


def _default(f: Field[Any]) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()


@dataclass(frozen=True, kw_only=True)
class MethodSettings(Settings):
    """Settings of all methods.

    Attributes:
        seed: Seed of all random numbers of the method, from 0 to 2**63 - 1; ``None`` draws one from
            PyTorch's global generator at the first use.
        memory_budget: Maximum bytes of the memory between experiences, without the classifier, as a
            number or text such as ``"1MB"``. The memory is made smaller if possible; otherwise an
            experience that needs more is refused.
    """

    seed: int | None = field(default=None, metadata={"least": 0, "most": 2**63 - 1})
    memory_budget: int | str | None = field(default=None, metadata={"bytes": True})


class Plain:
    """Base class of dataclasses that are saved in a ``state_dict`` as plain values."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls: type[P], values: Mapping[str, Any]) -> P:
        """The inverse of `to_dict`; lists, as in JSON, become tuples."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def check_fields(values: Any) -> None:
    """Checks the fields of a dataclass by their annotations, see `Settings`.

    Mappings of optimisers are replaced by specifications.

    Raises:
        ConfigError: The annotation of a field does not allow its value.
    """
    hints = get_type_hints(type(values))
    for f in fields(values):
        value = _checked(f.name, getattr(values, f.name), hints[f.name], **f.metadata)
        object.__setattr__(values, f.name, value)


def _checked(name: str, value: Any, hint: Any, **bounds: Any) -> Any:
    """A setting's value, checked by its annotation and bounds."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and NoneType in kinds:
        return None
    if bounds.get("bytes"):
        read_bytes(name, value)
    kind, *others = (kind for kind in kinds if kind is not NoneType)
    if others:
        return value
    if get_origin(kind) is Literal:
        one_of(name, value, *get_args(kind))
    elif kind is int:
        whole(name, value, optional=NoneType in kinds, **bounds)
    elif kind is float and bounds:
        number(name, value, optional=NoneType in kinds, **bounds)
    elif kind is bool and not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} must be True or False.")
    elif kind == tuple[int, ...]:
        check_widths(name, value, **bounds)
    elif kind == tuple[float, float]:
        check_range(value, name=name)
    elif hasattr(kind, "read"):
        return kind.read(name, value)
    return value


def plain(value: Any) -> Any:
    """Converts a setting to numbers, strings, lists and dictionaries.

    An object with settings becomes these under the name of its class, any other object that name as
    a string such as ``"<function>"``.
    """
    if hasattr(value, "tolist"):
        # NumPy scalars and arrays, and tensors.
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
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
    """Replaces deprecated names and values by the current ones, with a `FutureWarning`.

    Args:
        kind: The settings' class.
        values: Names and values given by the user; unknown names are not changed.

    Raises:
        ConfigError: A setting is given by its deprecated and its current name.
    """
    current: dict[str, Any] = {}
    names, former = (_collected(kind, each) for each in ("deprecated", "deprecated_values"))
    for given, value in values.items():
        name = names.get(given, given)
        if name != given and name in values:
            raise ConfigError(f"{given} is the former name of {name}; give only {name}.")
        # Values of other settings need not be hashable.
        new = former.get(name, {}).get(value, value) if isinstance(value, str) else value
        if name != given or new is not value:
            warnings.warn(
                f"{given}={value!r} is deprecated; use {name}={new!r}.", FutureWarning, stacklevel=2
            )
        current[name] = new
    return current


def _collected(kind: type, attribute: str) -> dict[str, Any]:
    """The merged mappings of a class and its base classes."""
    merged: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        merged |= vars(base).get(attribute, {})
    return merged


def make_settings(kind: Callable[..., S], values: Mapping[str, Any], *, base: Any = None) -> S:
    """Builds settings from keyword arguments; an error lists the existing names.

    Deprecated names and values are accepted with a `FutureWarning`.

    Args:
        kind: The settings' class.
        values: Names and values given by the user.
        base: Settings of that class for all other values; ``None`` for the defaults.

    Raises:
        ConfigError: A name is unknown, a value cannot work, or ``base`` is of another class.
    """
    values = present(kind, values)
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(
            f"Unknown hyper-parameter {', '.join(unknown)}. Available: {', '.join(sorted(known))}."
        )
    if base is None:
        return kind(**values)
    if type(base) is not kind:
        name = getattr(kind, "__name__", str(kind))
        raise ConfigError(f"settings is a {type(base).__name__}; a {name} is needed.")
    return replace(base, **values)


def describe_settings(kind: Any) -> dict[str, str]:
    """Descriptions of a dataclass's fields from its docstring and those of its base classes."""
    texts: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        for title in ("Args", "Attributes"):
            texts |= entries(inspect.getdoc(owner) if "__doc__" in vars(owner) else "", title)
    return {f.name: texts[f.name] for f in fields(kind) if f.name in texts}


def entries(doc: str | None, title: str) -> dict[str, str]:
    """The entries of a section of a Google docstring without indentation, such as ``"Args"``."""
    section = re.search(rf"^{title}:\n((?:(?: +.*)?\n?)*)", doc or "", re.MULTILINE)
    text = dedent(section.group(1)) if section else ""
    entries = re.findall(r"^(\w+): (.*\n?(?:(?: +.*)?\n)*(?: +.*)?)", f"{text}\n", re.MULTILINE)
    return {name: inspect.cleandoc(entry).strip() for name, entry in entries}

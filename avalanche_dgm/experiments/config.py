"""The config of an experiment. It does not import PyTorch, so that results are read without it."""

from __future__ import annotations

import dataclasses
import difflib
import json
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from avalanche_dgm.checks import whole
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.settings import Settings

#: The named networks: default hidden layers, and those of a fast run.
MLP, LATENT, ALEXNET = "mlp", "latent-replay-network", "alexnet-like"
NETWORKS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    MLP: ((400, 400), (32, 32)),
    LATENT: ((), ()),
    ALEXNET: ((256,), (32,)),
}
_FORMER_METHODS = {"dynamic-memory-critic": "dynamic-memory-discriminator"}
_PAPER_STREAMS = ("digits", "permnist", "tdigits")
# Settings that do not affect the result.
PLACE = ("data_root", "download", "device")
#: Settings of a Trainer that affect the result.
IN_RESULT = ("precision", "accumulate", "clip")
#: Settings that may be class paths, and the fields of their arguments.
BY_CLASS_PATH = {
    "method": "method_options",
    "stream": "stream_options",
    "model": "model_options",
}


@dataclass(frozen=True)
class TrainerSettings(Settings):
    """Settings of the Trainer that runs an experiment.

    Attributes:
        devices: Devices of each machine, or "auto" for all; 1 by default.
        accelerator: Kind of device, such as "cpu" or "gpu"; ``None`` takes ``device``.
        strategy: "auto" (``ddp`` if there are several devices), "ddp" or another DDP variant.
        num_nodes: Number of machines; 1 by default.
        precision: "32-true" (the default), "16-mixed" or "bf16-mixed": memories need weights of 32
            bits.
        accumulate: Batches per optimiser step; 1 by default.
        clip: Maximum global norm of the gradients, above 0, or ``None``.
        save_every: Optimiser steps between two saves within an experience; 1000 by default.

    Raises:
        ConfigError: A value is out of range.
    """

    devices: int | str = 1
    accelerator: str | None = None
    strategy: str = "auto"
    num_nodes: int = 1
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    accumulate: int = 1
    clip: float | None = field(default=None, metadata={"above": 0})
    save_every: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.devices != "auto":
            whole("devices", self.devices, otherwise=", or auto")
        if not (self.strategy == "auto" or str(self.strategy).startswith("ddp")):
            raise ConfigError(
                f"strategy is {self.strategy!r}. Memories need complete networks on every device:"
                " use auto, ddp, or another DDP strategy such as ddp_spawn."
            )


@dataclass(frozen=True)
class ExperimentConfig(Settings):
    """Settings of a run. Ranges are checked here, names of methods and streams when a run starts.

    Method, stream and model are names, or class paths such as "my_module.MyPlugin" in the working
    folder or an installed package.

    Attributes:
        method: A name in ``avalanche_dgm.experiments.METHODS``, or the class path of an Avalanche
            plugin or of a `avalanche_dgm.methods.Method`.
        stream: A name in ``avalanche_dgm.streams.STREAMS``, or the class path of a function that
            returns an Avalanche benchmark.
        model: The classifier: "mlp", "latent-replay-network" or "alexnet-like", or the class path
            of a module.
        seed: Determines weights, batches, replay and splits; 0 or more. With several seeds, the
            first.
        hidden: Units of each hidden layer of the multilayer perceptron; one number for the dense
            layers of a turntable stream's network; none if the layers are fixed.
        epochs: Epochs of each experience, at least 1; with ``until`` the maximum.
        until: Training accuracy of an epoch, above 0 and at most 1, that ends an experience. With
            the schedule "cosine" the learning rate then decays to 0 over half as many further
            epochs. Without it all epochs are trained.
        batch_size: New images per step, at least 1.
        lr: Learning rate, above 0.
        optimizer: "adam", "rmsprop" (rho 0.9, as in the paper) or "sgd".
        schedule: "constant", or "cosine": the learning rate decays to 0 in each experience.
        dropout: Dropout probability of hidden units, from 0 to below 1.
        data_root: Folder of the data sets; ``None`` takes the variable AVALANCHE_DGM_DATA.
        download: Download a data set that is missing.
        device: "cpu", "cuda" or "auto" (a GPU if there is one). The default is "cpu", and "auto"
            with the backend "lightning".
        n_experiences: Number of experiences into which a split stream is divided; of other streams
            only the first ones are learned. ``None`` for the stream's default.
        revisit: Experiences (counted from 0) that are learned again at the end.
        stream_options: Further keyword arguments of the stream.
        method_options: Hyper-parameters of the method's plugin.
        model_options: Arguments of a model given by class path, or of "latent-replay-network":
            latent_channels, padding and pool.
        paper: Train with the paper's settings (those of ``Plugin.paper``).
        fast: A smoke test of seconds, with meaningless accuracies.
        evaluate_on: "test", or "validation": a held-out fraction of each class's training images in
            place of the test images. Use it for tuning.
        validation_fraction: The held-out fraction, above 0 and below 1.
        every_epoch: Also test before the first and after each epoch (with Avalanche's loop only).
        quality: Compare generated with real samples after each experience.
        backend: "avalanche" (the default), its training loop, or "lightning", a Trainer.
        trainer: Settings of that Trainer, or a mapping with some of them.

    Raises:
        ConfigError: A value is outside its range.
    """

    method: str = "dgdmn"
    stream: str = "sklearn-digits"
    model: str = MLP
    seed: int = field(default=0, metadata={"least": 0})
    hidden: tuple[int, ...] = field(default=NETWORKS[MLP][0], metadata={"fewest": 0})
    epochs: int = 5
    until: float | None = field(default=None, metadata={"above": 0, "most": 1})
    batch_size: int = 128
    lr: float = field(default=1e-3, metadata={"above": 0})
    optimizer: Literal["adam", "rmsprop", "sgd"] = "adam"
    schedule: Literal["constant", "cosine"] = "constant"
    dropout: float = field(default=0.0, metadata={"least": 0, "below": 1})
    data_root: str | None = None
    download: bool = False
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    n_experiences: int | None = None
    revisit: tuple[int, ...] = field(default=(), metadata={"fewest": 0, "least": 0})
    stream_options: Mapping[str, Any] = field(default_factory=dict)
    method_options: Mapping[str, Any] = field(default_factory=dict)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    paper: bool = False
    fast: bool = False
    evaluate_on: Literal["test", "validation"] = "test"
    validation_fraction: float = field(default=0.1, metadata={"above": 0, "below": 1})
    every_epoch: bool = False
    quality: bool = False
    backend: Literal["avalanche", "lightning"] = "avalanche"
    trainer: TrainerSettings = field(default_factory=TrainerSettings)

    @classmethod
    def create(
        cls, method: str = "dgdmn", stream: str = "sklearn-digits", **given: Any
    ) -> ExperimentConfig:
        """Makes a config with defaults from the recipes of the stream and the method.

        Args:
            method: Name of the method.
            stream: Name of the stream.
            **given: Any other field; ``None`` means its default. ``paper=True`` uses the paper's
                network, optimiser and epochs, ``fast=True`` tiny networks and one epoch.

        Raises:
            ConfigError: The settings cannot be run.
        """
        from avalanche_dgm.experiments.planning import plan

        (configs,) = plan({**given, "stream": stream, "methods": [method]}, methods=()).values()
        return configs[0]

    def __post_init__(self) -> None:
        # Lists from JSON become tuples.
        object.__setattr__(self, "hidden", tuple(self.hidden))
        object.__setattr__(self, "revisit", tuple(self.revisit))
        if isinstance(self.trainer, Mapping):
            _require_fields("trainer setting", self.trainer, TrainerSettings)
            object.__setattr__(self, "trainer", TrainerSettings(**self.trainer))
        for name in BY_CLASS_PATH:
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} is {getattr(self, name)!r} instead of a name.")
        super().__post_init__()
        object.__setattr__(self, "method", current_method(self.method))
        if not is_class_path(self.model):
            require_known("model", self.model, NETWORKS)
        if self.backend == "avalanche" and self.trainer != TrainerSettings():
            raise ConfigError("Settings of a Trainer need backend='lightning'.")
        if self.backend == "lightning" and self.every_epoch:
            raise ConfigError(
                "A Trainer tests after experiences; every_epoch needs Avalanche's loop."
            )

    def replace(self, **changes: Any) -> ExperimentConfig:
        """Returns a copy with other values in some fields."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Returns a dictionary that ``json.dump`` accepts and ``from_json`` reads back."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["trainer"] = dataclasses.asdict(self.trainer)
        try:
            copy = json.loads(json.dumps(values, default=dict))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"The options cannot be written as JSON: {error}.") from error
        return dict(copy)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ExperimentConfig:
        """Reads what ``to_json`` returned.

        Args:
            values: Field names and values; absent fields keep the dataclass's defaults.

        Raises:
            ConfigError: A field is unknown or its value cannot be used.
        """
        _require_fields("setting", values, cls)
        return cls(**values)

    def differences(self, other: ExperimentConfig) -> list[str]:
        """Lists the differences in settings that affect the result.

        Returns:
            Strings such as "epochs 5 (was 10)", where "was" is the other's value.
        """
        mine, theirs = self.in_result(), other.in_result()
        return [
            f"{name} {mine[name]} (was {theirs[name]})"
            for name in mine
            if mine[name] != theirs[name]
        ]

    def in_result(self) -> dict[str, Any]:
        """Returns the settings that affect the result, as JSON values."""
        values = self.to_json()
        trainer = values.pop("trainer")
        kept = {name: value for name, value in values.items() if name not in PLACE}
        return kept | {name: trainer[name] for name in IN_RESULT}


def _require_fields(what: str, values: Mapping[str, Any], kind: Any) -> None:
    known = [f.name for f in dataclasses.fields(kind)]
    for name in values:
        require_known(what, name, known)


def is_class_path(name: str) -> bool:
    """Whether a name is a class path, which has a dot."""
    return "." in name


def paper_stream(stream: str) -> str:
    """Returns the paper's stream whose settings are used for a stream."""
    return stream if stream in _PAPER_STREAMS else "digits"


def current_method(name: str) -> str:
    """A method's current name, with a warning if the given one is deprecated."""
    current = _FORMER_METHODS.get(name, name)
    if current != name:
        warnings.warn(f"The method {name} is now called {current}.", FutureWarning, stacklevel=2)
    return current


def require_known(what: str, name: str, known: Collection[str]) -> None:
    """Checks a name against those that exist.

    Raises:
        ConfigError: The name is not among them; the message lists them and the nearest one.
    """
    if name in known:
        return
    near = difflib.get_close_matches(str(name), list(known), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ConfigError(f"Unknown {what}: '{name}'.{hint} Available: {', '.join(known) or 'none'}.")

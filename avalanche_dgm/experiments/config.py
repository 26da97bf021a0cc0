"""One experiment as data: what is learned, by which method, with which settings."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.networks import TURNTABLES, network_of, shape_of
from avalanche_dgm.experiments.trainer import IN_RESULT, TrainerSettings
from avalanche_dgm.settings import positive, whole

BACKENDS = ("avalanche", "lightning")
OPTIMIZERS = ("adam", "rmsprop", "sgd")
SCHEDULES = ("constant", "cosine")
DEVICES = ("auto", "cpu", "cuda")
_FORMER_METHODS = {"dynamic-memory-critic": "dynamic-memory-discriminator"}

# SGD as in the A-LTM paper: adaptive optimisers answer a new term of the loss, whose gradient is 0
# at first, with steps that undo what it is to hold. Small batches are many steps in few minutes.
# Steps that are large at first disturb what is known, and small ones at last let it settle.
_TURNTABLE = {"epochs": 4, "batch_size": 8, "lr": 0.1, "optimizer": "sgd", "schedule": "cosine"}
# Defaults of the network that is trained through the strategy, by stream ("" for any other). The
# embedded digits are 8x8 and about 140 images an experience: small batches, many epochs.
_SOLVER: dict[str, dict[str, Any]] = {
    "": {"epochs": 5, "batch_size": 128, "lr": 1e-3},
    "sklearn-digits": {"epochs": 30, "batch_size": 16, "lr": 1e-3},
    "sklearn-digits-5x2": {"epochs": 30, "batch_size": 16, "lr": 1e-3},
    # What is known of old and new classes swings from step to step unless the steps get smaller.
    "latent-split": {"epochs": 3, "batch_size": 128, "lr": 1e-3, "schedule": "cosine"},
    **dict.fromkeys(TURNTABLES, _TURNTABLE),
}
# Streams of more classes than most; turntables have 10 more, under another task label.
_MANY_CLASSES = {"tdigits": 40, "split-cifar100": 100, **dict.fromkeys(TURNTABLES, 98)}
# The distance is a sum over up to 88 logits: with much more weight SGD diverges.
_HELD = {"weight": 0.001}
# Answers to blurred images are not those to be held: samples of a turntable have to be sharp.
_HELD_ON_SAMPLES = {**_HELD, "generator_steps": 4000, "kl_weight": 0.1}
# Defaults of a method's options, by streams that its own do not suit.
_OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    # Half of the stream's batch: a quarter less time, and the same accuracy.
    ("latent-replay", "latent-split"): {"replay_size": 64},
    **{(method, stream): _HELD for method in ("altm", "altm-stored") for stream in TURNTABLES},
    **{("altm-generated", stream): _HELD_ON_SAMPLES for stream in TURNTABLES},
}
# Kamra et al. 2017, appendix B: three dense layers, RMSProp, batches of 128, 6 epochs a task.
_PAPER = {
    "epochs": 6,
    "batch_size": 128,
    "lr": 1e-3,
    "optimizer": "rmsprop",
    "schedule": "constant",
}
_PAPER_STREAMS = ("digits", "permnist", "tdigits")
_PAPER_JOINT_EPOCHS = 20
_DROPOUT = 0.2
_FAST = {"epochs": 1}
# Where data lie and what computes them does not change what is computed.
PLACE = ("data_root", "download", "device")


@dataclass(frozen=True)
class ExperimentConfig:
    """Settings of one run; an object that exists is valid.

    Attributes:
        method: A name in ``avalanche_dgm.experiments.METHODS``.
        stream: A name in ``avalanche_dgm.streams.STREAMS``.
        seed: Governs weights, batches, replay and splits; 0 or more.
        hidden: Units of each hidden layer of the multilayer perceptron that classifies; one number
            for the dense layers of a turntable stream's network; none where it is fixed.
        epochs: Passes over each experience's data, at least 1.
        batch_size: Images of the experience in one step, at least 1.
        lr: Learning rate, above 0.
        optimizer: "adam", "rmsprop" (rho 0.9, as in the paper) or "sgd".
        schedule: "constant", or "cosine": the learning rate falls to 0 over each experience.
        dropout: Probability of dropping a hidden unit, from 0 to below 1.
        data_root: Folder of downloaded data sets, or ``None`` for the stream's own default.
        download: Fetch a data set that is absent.
        device: "cpu", "cuda" or "auto" (a GPU if there is one).
        n_experiences: Number of experiences: split streams are cut into so many, of others the
            first ones are learned. ``None`` for the stream's own.
        revisit: Experiences (counted from 0) that are learned again at the end.
        stream_options: Further keyword arguments of the stream.
        method_options: Hyper-parameters of the method's plugin.
        paper: Build the plugin with the paper's settings (``Plugin.paper``).
        fast: A run of seconds that shows that everything works, not how well.
        quality: Compare what the generator makes with real samples after each experience.
        backend: What trains: "avalanche", its own loop, or "lightning", a Trainer.
        trainer: Settings of that Trainer, or a mapping with some of them.

    Raises:
        ConfigError: A value is outside its range, or the method or the stream does not exist.
    """

    method: str = "dgdmn"
    stream: str = "sklearn-digits"
    seed: int = 0
    hidden: tuple[int, ...] = (400, 400)
    epochs: int = 5
    batch_size: int = 128
    lr: float = 1e-3
    optimizer: str = "adam"
    schedule: str = "constant"
    dropout: float = 0.0
    data_root: str | None = None
    download: bool = False
    device: str = "cpu"
    n_experiences: int | None = None
    revisit: tuple[int, ...] = ()
    stream_options: Mapping[str, Any] = field(default_factory=dict)
    method_options: Mapping[str, Any] = field(default_factory=dict)
    paper: bool = False
    fast: bool = False
    quality: bool = False
    backend: str = "avalanche"
    trainer: TrainerSettings = field(default_factory=TrainerSettings)

    @classmethod
    def create(
        cls,
        method: str = "dgdmn",
        stream: str = "sklearn-digits",
        *,
        paper: bool = False,
        fast: bool = False,
        **given: Any,
    ) -> ExperimentConfig:
        """Fills in the defaults that suit the stream and the method.

        Args:
            method: Name of the method.
            stream: Name of the stream.
            paper: Use the paper's network, optimiser and epochs.
            fast: Use tiny networks and one epoch.
            **given: Any other field; ``None`` means its default.

        Raises:
            ConfigError: The settings cannot be run.
        """
        settings: dict[str, Any] = dict(_SOLVER.get(stream, _SOLVER[""]))
        if paper:
            from avalanche_dgm.methods.dgdmn import PAPER

            settings |= _PAPER | {"hidden": PAPER[paper_stream(stream)].learner_hidden}
            if method == "joint":
                settings["epochs"] = _PAPER_JOINT_EPOCHS
        labels = (given.get("stream_options") or {}).get("task_labels")
        network = network_of(method, stream, task_labels=labels, paper=paper)
        settings |= shape_of(network, fast=fast)
        if method == "dropout":
            settings["dropout"] = _DROPOUT
        if given.get("backend") == "lightning":
            settings["device"] = "auto"
        if fast:
            settings |= _FAST
        known = {name: value for name, value in given.items() if value is not None}
        options = _options(method, stream, fast=fast)
        if options:
            known["method_options"] = options | dict(known.get("method_options", {}))
        return cls(method=method, stream=stream, paper=paper, fast=fast, **(settings | known))

    def __post_init__(self) -> None:
        # Names first: lists of numbers may come from JSON.
        object.__setattr__(self, "hidden", tuple(self.hidden))
        object.__setattr__(self, "revisit", tuple(self.revisit))
        if isinstance(self.trainer, Mapping):
            object.__setattr__(self, "trainer", _trainer(self.trainer))
        from avalanche_dgm.experiments.methods import METHODS
        from avalanche_dgm.streams import STREAMS

        object.__setattr__(self, "method", present_method(self.method))
        require_known("method", self.method, METHODS)
        require_known("stream", self.stream, STREAMS)
        require_known("optimizer", self.optimizer, OPTIMIZERS)
        require_known("schedule", self.schedule, SCHEDULES)
        require_known("device", self.device, DEVICES)
        require_known("backend", self.backend, BACKENDS)
        if self.backend == "avalanche" and self.trainer != TrainerSettings():
            raise ConfigError("Settings of a Trainer need backend='lightning'.")
        whole("seed", self.seed, least=0)
        whole("epochs", self.epochs)
        whole("batch_size", self.batch_size)
        for units in self.hidden:
            whole("each of hidden", units)
        for experience in self.revisit:
            whole("each of revisit", experience, least=0)
        whole("n_experiences", self.n_experiences, optional=True)
        positive("lr", self.lr)
        if not (_is_number(self.dropout) and 0 <= self.dropout < 1):
            raise ConfigError(f"dropout is {self.dropout!r}; it must be from 0 to below 1.")

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
        names = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            require_known("setting", name, names)
        return cls(**values)

    def differences(self, other: ExperimentConfig) -> list[str]:
        """Says in which settings that matter for the result two configs differ.

        Args:
            other: The config to compare with.

        Returns:
            Strings such as "epochs 5 (was 10)", where "was" is the other's value.
        """
        mine, theirs = self._in_result(), other._in_result()
        return [
            f"{name} {mine[name]} (was {theirs[name]})"
            for name in mine
            if mine[name] != theirs[name]
        ]

    def _in_result(self) -> dict[str, Any]:
        values = self.to_json()
        trainer = values.pop("trainer")
        kept = {name: value for name, value in values.items() if name not in PLACE}
        return kept | {name: trainer[name] for name in IN_RESULT}


def _options(method: str, stream: str, *, fast: bool) -> dict[str, Any]:
    """Defaults of a method's options on a stream, where its own do not suit."""
    from avalanche_dgm.experiments.methods import METHODS, options_of
    from avalanche_dgm.methods.registry import NamedMethod

    options = dict(_OPTIONS.get((method, stream), {}))
    found = METHODS.get(method)
    if not isinstance(found, NamedMethod):
        return options
    if stream in _MANY_CLASSES and "class_inputs" in options_of(found):
        # Generators that are told the class need an input for each.
        n = _MANY_CLASSES[stream]
        options |= {"class_inputs": n, "latent": 128 + n}
    quick = found.fast_settings({**found.defaults, **found.fixed}) if fast else {}
    return {name: value for name, value in options.items() if name not in quick}


def _trainer(values: Mapping[str, Any]) -> TrainerSettings:
    names = [f.name for f in dataclasses.fields(TrainerSettings)]
    for name in values:
        require_known("setting of a trainer", name, names)
    return TrainerSettings(**values)


def paper_stream(stream: str) -> str:
    """Returns which of the paper's three sequences a stream resembles most.

    Args:
        stream: Name of a stream.
    """
    return stream if stream in _PAPER_STREAMS else "digits"


def present_method(name: str) -> str:
    """A method's name in place of its former one, which is deprecated.

    Args:
        name: What the user, or a file of an earlier release, calls it.
    """
    present = _FORMER_METHODS.get(name, name)
    if present != name:
        warnings.warn(f"The method {name} is now called {present}.", FutureWarning, stacklevel=2)
    return present


def require_known(what: str, name: str, known: Collection[str]) -> None:
    """Checks a name against those that exist.

    Args:
        what: What is named, for the message.
        name: The name given.
        known: The names that exist.

    Raises:
        ConfigError: The name is not among them; the message lists them and the nearest one.
    """
    if name in known:
        return
    near = difflib.get_close_matches(str(name), list(known), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ConfigError(
        f"There is no {what} '{name}'.{hint} There are: {', '.join(known) or 'none'}."
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

"""Which of Lightning's own callbacks are supported in a stream of many fits.

A callback for a single fit may silently give wrong results in a stream. So each of ``pl.callbacks``
is in one of the two tables here. Names that the installed version lacks are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning.package import check_package, pl

_EVERY = "is called in every fit; `module.stage_name` names the fit"
_LEARNING = "monitors the classifier's training, reset in each experience"
_BAR = "shows experience and phase"

#: What each supported callback does in a stream.
SUPPORTED = {
    "BasePredictionWriter": "writes the results of `trainer.predict` after the stream",
    "Callback": _EVERY,
    "Checkpoint": _LEARNING,
    "DeviceStatsMonitor": f"{_EVERY}; needs a logger",
    "EarlyStopping": _LEARNING,
    "LambdaCallback": _EVERY,
    "LearningRateMonitor": f"{_EVERY}; needs a logger",
    "ModelCheckpoint": _LEARNING,
    "ModelSummary": "is printed before every fit",
    "OnExceptionCheckpoint": (
        "saves the module when a fit fails, including phases; later fits do not load it"
    ),
    "ProgressBar": "is called in every fit and test",
    "RichModelSummary": "is printed before every fit",
    "RichProgressBar": _BAR,
    "Timer": "limits the time of the whole stream",
    "TQDMProgressBar": _BAR,
}

_AVERAGES = (
    "it averages all buffers of the module, including labels, and restarts in each fit. Average"
    " the network's weights after the stream, or in its own forward pass"
)
_FREEZES = (
    "it freezes layers by the epoch of a single fit. Set requires_grad of the model's parameters"
    " before the stream"
)

#: Why each other callback is not supported, and what to do instead.
UNSUPPORTED = {
    "BackboneFinetuning": _FREEZES,
    "BaseFinetuning": _FREEZES,
    "BatchSizeFinder": (
        "it tunes a single training batch size, but phases have their own. Set batch_size"
    ),
    "EMAWeightAveraging": _AVERAGES,
    "GradientAccumulationScheduler": (
        "it changes gradient accumulation by the epoch of a single fit. Give the Trainer"
        " accumulate_grad_batches"
    ),
    "LearningRateFinder": (
        "it tunes a single learning rate, but the module has one optimizer per phase. Set lr in"
        " the module's optimizer"
    ),
    "ModelPruning": (
        "it replaces parameters, but networks are copied and grow. Prune the model with"
        " torch.nn.utils.prune after the stream"
    ),
    "SpikeDetection": (
        "it compares losses of different phases. A loss that is not finite is detected without it"
    ),
    "StochasticWeightAveraging": _AVERAGES,
    "ThroughputMonitor": (
        "it needs the size of each batch, but phases sample their own batches. The result has"
        " seconds and iterations"
    ),
    "WeightAveraging": _AVERAGES,
}


def check_callbacks(trainer: pl.Trainer, callbacks: Iterable[Any]) -> None:
    """Checks that callbacks, or their base classes, are supported in a stream.

    Raises:
        ConfigError: A callback is not supported, lacks a logger or package, or is from Lightning's
            other package.
    """
    callbacks = list(callbacks)
    check_package(callbacks)
    for callback in callbacks:
        name = type(callback).__name__
        for unsupported, reason in UNSUPPORTED.items():
            if _is(callback, unsupported):
                raise ConfigError(f"The callback {name} cannot be used in a stream: {reason}.")
        if _is(callback, "DeviceStatsMonitor", "LearningRateMonitor") and not trainer.loggers:
            raise ConfigError(f"The callback {name} needs a logger: give the Trainer logger=...")
        on_cpu = isinstance(trainer.accelerator, pl.accelerators.CPUAccelerator)
        if _is(callback, "DeviceStatsMonitor") and on_cpu and find_spec("psutil") is None:
            raise ConfigError(f"The callback {name} needs the package psutil: pip install psutil.")


def check_monitors(trainer: pl.Trainer, module: Any, *, validated: bool) -> None:
    """Checks that callbacks monitor logged values, unless code of the user may log others.

    Raises:
        ConfigError: A callback monitors a value that is not logged.
    """
    untyped: Any = trainer
    if any(_may_log(part) for part in (module, *untyped.callbacks)):
        return
    logged = ["train/loss", "train/accuracy"]
    logged += ["train/loss_step"] if trainer.loggers else []
    logged += ["val/loss", "val/accuracy"] if validated and trainer.limit_val_batches else []
    for callback in untyped.callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor is None or monitor in logged or not getattr(callback, "strict", True):
            continue
        raise ConfigError(
            f"The callback {type(callback).__name__} monitors {monitor!r}, which is not logged."
            f" There are {', '.join(logged)}. Values of validation need a benchmark with a"
            " valid_stream."
        )


def _may_log(part: Any) -> bool:
    """Whether a module or callback may log values that are not known in advance."""
    package = type(part).__module__.partition(".")[0]
    known = package in ("avalanche_dgm", "lightning", "pytorch_lightning")
    return not known or _is(part, "LambdaCallback", "LearningRateMonitor")


def _is(callback: Any, *names: str) -> bool:
    kinds = (getattr(pl.callbacks, name, None) for name in names)
    return isinstance(callback, tuple(kind for kind in kinds if kind is not None))

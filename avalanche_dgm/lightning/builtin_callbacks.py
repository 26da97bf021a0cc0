"""Which of Lightning's own callbacks a stream of many fits can have.

A callback that is written for one fit may be wrong in many, with nothing to show for it. So each of
``pl.callbacks`` is in one of the two tables here, and the refused ones are refused by name. Names
that the installed version does not have are no matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning.package import check_package, pl

_EVERY = "sees every fit; `module.stage_name` says which"
_LEARNING = "watches the classifier's training, each experience for itself"
_BAR = "names experience and phase"

#: By class: what it does in a stream.
SUPPORTED = {
    "BasePredictionWriter": "writes what `trainer.predict` finds afterwards",
    "Callback": _EVERY,
    "Checkpoint": _LEARNING,
    "DeviceStatsMonitor": f"{_EVERY}; needs a logger",
    "EarlyStopping": _LEARNING,
    "LambdaCallback": _EVERY,
    "LearningRateMonitor": f"{_EVERY}; needs a logger",
    "ModelCheckpoint": _LEARNING,
    "ModelSummary": "is printed before every fit",
    "OnExceptionCheckpoint": "saves the module when a fit fails, a phase's too",
    "ProgressBar": "sees every fit and test",
    "RichModelSummary": "is printed before every fit",
    "RichProgressBar": _BAR,
    "Timer": "counts over the whole stream, and ends it",
    "TQDMProgressBar": _BAR,
}

_AVERAGES = (
    "it averages everything that a module holds, classes and labels among it, and anew in each"
    " fit. Average the weights of the network after the stream, or in its own forward pass"
)
_FREEZES = (
    "it freezes layers by the epochs of one fit, and an optimizer outlives many. Set"
    " requires_grad on the model's parameters before the stream"
)

#: By class: why not, and what to do instead.
UNSUPPORTED = {
    "BackboneFinetuning": _FREEZES,
    "BaseFinetuning": _FREEZES,
    "BatchSizeFinder": (
        "it trains to try sizes, and phases have batch sizes of their own. Give batch_size"
    ),
    "EMAWeightAveraging": _AVERAGES,
    "GradientAccumulationScheduler": (
        "it changes by the epochs of one fit how a step is divided. Give the Trainer"
        " accumulate_grad_batches"
    ),
    "LearningRateFinder": (
        "it trains to try rates, on a module that has several optimizers in turn. Give the"
        " module's optimizer its lr"
    ),
    "ModelPruning": (
        "it replaces parameters of networks that are copied and grow. Prune the model with"
        " torch.nn.utils.prune after the stream"
    ),
    "SpikeDetection": (
        "it compares a loss with that of another phase. A loss that is not finite is found without"
        " it"
    ),
    "StochasticWeightAveraging": _AVERAGES,
    "ThroughputMonitor": (
        "it asks a batch for its size, and phases draw theirs where they use them. The result has"
        " seconds and iterations"
    ),
    "WeightAveraging": _AVERAGES,
}


def check_callbacks(trainer: pl.Trainer, callbacks: Iterable[Any]) -> None:
    """Refuses callbacks that would be wrong in a stream, and their subclasses.

    Args:
        trainer: The Trainer.
        callbacks: Its callbacks.

    Raises:
        ConfigError: One of them is refused, or lacks what it needs, or is of Lightning's other
            package.
    """
    callbacks = list(callbacks)
    check_package(callbacks)
    for callback in callbacks:
        name = type(callback).__name__
        for refused, reason in UNSUPPORTED.items():
            if _is(callback, refused):
                raise ConfigError(f"The callback {name} is not right in a stream: {reason}.")
        if _is(callback, "DeviceStatsMonitor", "LearningRateMonitor") and not trainer.loggers:
            raise ConfigError(f"The callback {name} needs a logger: give the Trainer logger=...")
        on_cpu = isinstance(trainer.accelerator, pl.accelerators.CPUAccelerator)
        if _is(callback, "DeviceStatsMonitor") and on_cpu and find_spec("psutil") is None:
            raise ConfigError(f"The callback {name} needs the package psutil: pip install psutil.")


def _is(callback: Any, *names: str) -> bool:
    kinds = (getattr(pl.callbacks, name, None) for name in names)
    return isinstance(callback, tuple(kind for kind in kinds if kind is not None))

"""Checkpoints of strategies: Avalanche's two functions for current PyTorch.

``avalanche.checkpointing`` pickles a strategy with dill, which fails since ``torch.optim`` deletes
its submodule attributes: dill does not find ``torch.optim.sgd.SGD`` by its name and tries to pickle
the class by value. Here these attributes are restored while a checkpoint is written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, TypeVar

import torch

from avalanche_dgm.errors import CheckpointError
from avalanche_dgm.files import replacing

T = TypeVar("T")
FileLike = str | os.PathLike[str] | IO[bytes]
MapLocation = Callable[[Any, str], Any] | torch.device | str | dict[str, str] | None


def save_checkpoint(strategy: Any, fname: FileLike, exclude: Collection[str] | None = None) -> None:
    """Saves a strategy with its model, optimiser, plugins, loggers and random number generators.

    Call it between experiences, not within a training or evaluation loop. An existing file is
    replaced only once the new one is complete.

    Args:
        strategy: An Avalanche strategy.
        fname: Path, whose folder is created if missing, or a file open for writing bytes.
        exclude: Names of the strategy's attributes to leave out.

    Raises:
        CheckpointError: A part of the strategy cannot be pickled.
        OSError: The file cannot be written.
    """
    if not isinstance(fname, (str, os.PathLike)):
        _write(strategy, fname, exclude)
        return
    with replacing(fname) as file:
        _write(strategy, file, exclude)


def maybe_load_checkpoint(
    strategy: T,
    fname: FileLike,
    map_location: MapLocation = None,
    unique_objects: Any = None,
    *,
    stream: Iterable[Any] | None = None,
) -> tuple[T, int]:
    """Loads a strategy's state if a checkpoint exists; otherwise changes nothing.

    Training then continues as if it had not been interrupted: the global random number generators
    of Python, NumPy and PyTorch are restored, too. The strategy's model and optimiser are replaced
    by the loaded ones, so use ``strategy.model`` afterwards::

        strategy, done = maybe_load_checkpoint(strategy, path)
        for experience in benchmark.train_stream[done:]:
            strategy.train(experience)
            save_checkpoint(strategy, path)

    The strategy's class, arguments, optimiser, plugins and network must be those of the checkpoint.
    Device, loggers, metrics and ``eval_mb_size`` may differ; other settings can be changed after
    loading. A dynamic model may have grown in training.

    A checkpoint is a pickle, which can run code when it is loaded: load only files that you trust.

    Args:
        strategy: A strategy of the saved class, created as for a new run.
        fname: Path or a file open for reading bytes.
        map_location: Device to load to, as in ``torch.load``. ``None`` keeps the saved devices.
        unique_objects: Objects, usually the benchmark, whose datasets replace equal ones in the
            file, if their classes are registered for that with Avalanche.
        stream: The training experiences, by default those of ``unique_objects``; they must have
            the same data as in the interrupted run.

    Returns:
        The strategy, and the number of experiences that it was trained on (0 without a file).

    Raises:
        CheckpointError: The file is damaged, or holds another strategy; the message lists the
            differences. The strategy and the random states are then unchanged.
    """
    from avalanche_dgm.plugins.fingerprint import check_strategy, store_fingerprint

    if stream is None:
        stream = getattr(unique_objects, "train_stream", None)
    if isinstance(fname, (str, os.PathLike)) and not os.path.exists(fname):
        store_fingerprint(strategy, stream)
        return strategy, 0
    from avalanche.training.determinism.rng_manager import RNGManager

    before = RNGManager.__getstate__()
    try:
        content = _read(fname, map_location, unique_objects)
        _check(content, strategy, fname)
        check_strategy(
            content["strategy"], strategy, stream, where=f"The checkpoint {_name(fname)}"
        )
    except Exception:
        # Reading the checkpoint changes the generators.
        RNGManager.__setstate__(before)
        raise
    strategy.__dict__.update(content["strategy"].__dict__)
    return strategy, int(content["exp_counter"])


def load_copy(strategy: Any, file: IO[bytes], map_location: MapLocation) -> None:
    """Loads into a strategy the state of its copy in another process, from a checkpoint."""
    strategy.__dict__.update(_read(file, map_location, None)["strategy"].__dict__)


def _write(strategy: Any, file: IO[bytes], exclude: Collection[str] | None) -> None:
    from avalanche.checkpointing import save_checkpoint as avalanche_save_checkpoint

    from avalanche_dgm.plugins.loop import undo_interrupted
    from avalanche_dgm.plugins.metrics import find_plugins

    for plugin in find_plugins(strategy):
        undo_interrupted(plugin.method)
    try:
        with _optimiser_modules_by_name():
            avalanche_save_checkpoint(strategy, file, exclude)
    except OSError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"The {type(strategy).__name__} strategy cannot be saved: {error!r}. One of its"
            " attributes cannot be pickled, usually an open connection or thread of a plugin or"
            " logger: leave the attribute out with exclude=[...], or give the object's class a"
            " __getstate__."
        ) from error


def _read(fname: FileLike, map_location: MapLocation, unique_objects: Any) -> Any:
    import dill
    from avalanche.checkpointing.checkpoint_internals import _CheckpointLoadingContext

    plain = map_location is None or isinstance(map_location, Mapping)
    devices = map_location if plain else _Devices(map_location)
    where = map_location if callable(map_location) else devices
    try:
        with _CheckpointLoadingContext(devices, unique_objects), _silent_device_mapping():
            return torch.load(fname, pickle_module=dill, map_location=where, weights_only=False)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"The checkpoint {_name(fname)} cannot be read: {error!r}. It is damaged, not a"
            " checkpoint, or was written with other versions of the packages or of your own"
            " classes. Remove it to start from the first experience."
        ) from error


def _check(content: Any, strategy: Any, fname: FileLike) -> None:
    if not isinstance(content, Mapping) or not {"strategy", "exp_counter"} <= content.keys():
        raise CheckpointError(
            f"{_name(fname)} is a PyTorch file, but not a checkpoint of a strategy. Was it"
            " written with save_checkpoint?"
        )
    saved, expected = (
        f"{type(s).__module__}.{type(s).__qualname__}" for s in (content["strategy"], strategy)
    )
    if saved != expected:
        raise CheckpointError(
            f"The checkpoint {_name(fname)} holds a strategy of the class {saved}, not {expected}."
            " Load it into the class that was saved, or use another file."
        )


def _name(fname: FileLike) -> str:
    return f"'{fname}'" if isinstance(fname, (str, os.PathLike)) else "file"


@contextmanager
def _optimiser_modules_by_name() -> Iterator[None]:
    """Makes every loaded ``torch.optim.<name>`` an attribute of ``torch.optim`` temporarily."""
    prefix = "torch.optim."
    added: list[str] = []
    for full_name, module in list(sys.modules.items()):
        name = full_name.removeprefix(prefix)
        if full_name.startswith(prefix) and "." not in name and not hasattr(torch.optim, name):
            setattr(torch.optim, name, module)
            added.append(name)
    try:
        yield
    finally:
        for name in added:
            delattr(torch.optim, name)


@contextmanager
def _silent_device_mapping() -> Iterator[None]:
    """Keeps Avalanche from printing a line for each loaded device object."""
    from avalanche.checkpointing import checkpoint_internals

    # Shadows the builtin. With a redirected stdout, loaded loggers would keep that stream.
    checkpoint_internals.print = lambda *_, **__: None
    try:
        yield
    finally:
        del checkpoint_internals.print


class _Devices(dict[str, str]):
    """A ``map_location`` as Avalanche's mapping of device names."""

    def __init__(self, target: Any) -> None:
        super().__init__()
        self._target = target if callable(target) else str(torch.device(target))

    def get(self, name: str, default: Any = None) -> Any:
        if not callable(self._target):
            return "cpu" if name == "cpu" else self._target
        moved = self._target(torch.UntypedStorage(0), name)
        return default if moved is None else str(moved.device)

"""Stopping a stream early: time limits, signals and callbacks."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from avalanche_dgm.lightning import internals
from avalanche_dgm.lightning.package import pl

_SIGNALLED = "The process received a signal to end."
#: Termination signals received since `catching_signals` began.
_received: set[int] = set()


class StreamStopped(Exception):  # noqa: N818 - not an error
    """Stops a stream early; the run then returns its result so far."""


#: Exceptions that stop a stream early, including Lightning's own.
STOPS = (StreamStopped, pl.utilities.exceptions.SIGTERMException)


def signalled() -> bool:
    """Whether this process received a termination signal."""
    return bool(_received)


def stop_reason(trainer: pl.Trainer, *, agree: bool = False) -> str | None:
    """The reason why the stream should stop now, if any.

    Args:
        trainer: The Trainer, after its processes were started.
        agree: Whether all processes call this together, so that a signal to any of them counts.

    Returns:
        The reason, the same in every process; ``None`` to continue.
    """
    received = signalled()
    if trainer.world_size > 1:
        received = agree and trainer.strategy.reduce_boolean_decision(received, all=False)
    if received:
        return _SIGNALLED
    for timer in timers_of(trainer):
        left = timer.time_remaining()
        if left is not None and trainer.strategy.broadcast(left <= 0):
            return f"The time limit of {internals.time_limit(timer):g} s is over."
    return None


def report_stop(
    trainer: pl.Trainer, stop: BaseException, *, learned: int, n: int, folder: Path | None
) -> str:
    """Warns that a stream was stopped early, and ends the process after a signal.

    Returns:
        The reason.

    Raises:
        SIGTERMException: A signal was received.
    """
    reason = str(stop) or _SIGNALLED
    if trainer.is_global_zero:
        how = (
            f"The run is saved: the same call with resume=True continues it from {folder}."
            if folder is not None
            else "The interrupted experience is not saved; a run with checkpoint_dir can be resumed"
            " with resume=True."
        )
        warnings.warn(
            f"{reason} {learned} of {n} experiences were learned. {how}", UserWarning, stacklevel=2
        )
        if _received - {signal.SIGTERM} and folder is not None:
            _requeue()
    if reason == _SIGNALLED:
        # The usual exit code after SIGTERM, so that the run does not count as finished.
        raise pl.utilities.exceptions.SIGTERMException(128 + signal.SIGTERM)
    return reason


@contextmanager
def catching_signals(trainer: pl.Trainer) -> Iterator[None]:
    """Records termination signals, also between two fits.

    These are SIGTERM and, in a SLURM job with requeueing, the requeue signal. Earlier handlers
    are called, too.
    """
    _received.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM]
    requeue = internals.requeue_signal(trainer)
    if requeue is not None:
        # Lightning would save one fit, and load it into every fit of the requeued job.
        numbers.append(requeue or signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}

    def handler(earlier: Any) -> Callable[[int, Any], None]:
        def record(number: int, frame: Any) -> None:
            _received.add(number)
            if callable(earlier):
                earlier(number, frame)

        return record

    for number, earlier in before.items():
        signal.signal(number, handler(earlier))
    try:
        with ExitStack() as stack:
            if trainer.world_size > 1:
                stack.enter_context(internals.without_sigterm_notifier(trainer))
            yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _requeue() -> None:
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{job}_{os.environ['SLURM_ARRAY_TASK_ID']}" if job else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.SubprocessError) as error:
        # In a container there may be no scontrol.
        warnings.warn(f"SLURM did not requeue job {job}: {error}", UserWarning, stacklevel=3)


def timers_of(trainer: pl.Trainer) -> list[Any]:
    """The ``Timer`` callbacks of a Trainer, including that of ``max_time``."""
    untyped: Any = trainer
    return [callback for callback in untyped.callbacks if isinstance(callback, pl.callbacks.Timer)]

"""What ends a stream before its last experience: a limit of time, a signal, a callback."""

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

_SIGNALLED = "The process was asked to end by a signal."
#: Signals that asked the process to end since `catching_signals` began.
_received: set[int] = set()


class StreamStopped(Exception):  # noqa: N818 - nothing is wrong
    """Ends a stream where it is. Whoever learns the stream says so and returns what was learned."""


#: What leaves a stream where it is: also Lightning's own way to end a process.
STOPS = (StreamStopped, pl.utilities.exceptions.SIGTERMException)


def signalled() -> bool:
    """Whether a signal asked this process to end."""
    return bool(_received)


def stop_reason(trainer: pl.Trainer, *, agree: bool = False) -> str | None:
    """Says why the stream shall end.

    Args:
        trainer: The Trainer, in each of its processes.
        agree: Whether all processes ask at this point, so that a signal to one of them counts.

    Returns:
        The reason, the same in every process; ``None`` if the stream shall go on.
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
    """Warns that a stream was ended early, and leaves the process if a signal asked for that.

    Returns:
        Why it ended.

    Raises:
        SIGTERMException: A signal was received.
    """
    reason = str(stop) or _SIGNALLED
    if trainer.is_global_zero:
        how = (
            f"The run is saved: the same call with resume=True goes on in {folder}."
            if folder is not None
            else "Nothing is saved of the experience after that: with checkpoint_dir and"
            " resume=True a later call would go on."
        )
        warnings.warn(
            f"{reason} {learned} of {n} experiences were learned. {how}", UserWarning, stacklevel=2
        )
        if _received - {signal.SIGTERM} and folder is not None:
            _requeue()
    if reason == _SIGNALLED:
        # The usual exit code of a process that SIGTERM has ended: it is not done.
        raise pl.utilities.exceptions.SIGTERMException(128 + signal.SIGTERM)
    return reason


@contextmanager
def catching_signals(trainer: pl.Trainer) -> Iterator[None]:
    """Notes signals that ask the process to end, also between two fits.

    These are SIGTERM and, in a job that SLURM shall queue again, the signal for that. Handlers
    that were there are called, too.
    """
    _received.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM]
    requeue = internals.requeue_signal(trainer)
    if requeue is not None:
        # Lightning would save one fit, and load that into every fit of the job's next run.
        numbers.append(requeue or signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}

    def handler(earlier: Any) -> Callable[[int, Any], None]:
        def note(number: int, frame: Any) -> None:
            _received.add(number)
            if callable(earlier):
                earlier(number, frame)

        return note

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
    done = subprocess.run(["scontrol", "requeue", job], check=False)
    if done.returncode:
        warnings.warn(f"SLURM did not queue job {job} again.", UserWarning, stacklevel=3)


def timers_of(trainer: pl.Trainer) -> list[Any]:
    """Each ``Timer`` of a Trainer; ``max_time`` is one, too."""
    made: Any = trainer
    return [callback for callback in made.callbacks if isinstance(callback, pl.callbacks.Timer)]

"""Beginning, sharing and continuing runs of Weights & Biases."""

from __future__ import annotations

import os
import secrets
import string
import weakref
from typing import Any

#: Where launchers of several processes say which one this is, the most telling one first.
_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")

#: Runs of this process that were begun here, by id.
_begun: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def is_main_process() -> bool:
    """Whether this process is the one of several that logs, or the only one."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    given = (os.environ.get(name, "") for name in _RANKS)
    ranks = [int(rank) for rank in given if rank.strip().isdecimal()]
    return not ranks or ranks[0] == 0


def new_run_id() -> str:
    """A name for a run that no other one has: eight letters and digits, as W&B's own."""
    # The global random numbers, which training draws from, stay as they are.
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def open_run(settings: dict[str, Any]) -> Any:
    """Begins a run, continues it, or joins one that goes on already.

    A run that the caller's program began itself is joined, as ``wandb.init`` does. One that was
    begun here goes on beside the new one, unless it has the same id: then it is the same run.

    Args:
        settings: Keyword arguments of ``wandb.init``, with an ``id``.

    Returns:
        The run.

    Raises:
        Exception: Whatever ``wandb.init`` raises: no network, no account, no space.
    """
    import wandb

    active = wandb.run
    mine = _begun.get(settings["id"])
    if mine is not None and not _is_over(mine):
        return mine
    if active is not None and _begun.get(active.id) is not active:
        return active
    if active is not None:
        settings = {"reinit": "create_new", **settings}
    run = wandb.init(**settings)
    _begun[run.id] = run
    return run


def _is_over(run: Any) -> bool:
    # W&B does not tell in public whether a run was finished.
    return bool(getattr(run, "_is_finished", False))

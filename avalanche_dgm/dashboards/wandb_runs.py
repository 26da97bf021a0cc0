"""Starting, joining and resuming runs of Weights & Biases."""

from __future__ import annotations

import os
import secrets
import string
import weakref
from typing import Any

#: Variables in which launchers give the rank, in order of preference.
_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")

#: Runs that this module started in this process, by id.
_begun: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def is_main_process() -> bool:
    """Whether this process logs: it has rank 0, or is the only one."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    given = (os.environ.get(name, "") for name in _RANKS)
    ranks = [int(rank) for rank in given if rank.strip().isdecimal()]
    return not ranks or ranks[0] == 0


def new_run_id() -> str:
    """A unique run id of eight letters and digits, as W&B's own."""
    # Does not draw from the global generators, which training uses.
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def open_run(settings: dict[str, Any]) -> Any:
    """Starts or resumes a run, or joins the active one.

    A run that the user's program started is joined, as ``wandb.init`` does. A run that was started
    here stays open beside the new one, unless it has the same id: then it is returned.

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
    # W&B has no public attribute for this.
    return bool(getattr(run, "_is_finished", False))

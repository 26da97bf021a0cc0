"""Panels in a run of Weights & Biases."""

from __future__ import annotations

import os
import re
import secrets
import string
import warnings
import weakref
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from avalanche_dgm.dashboards.sinks import Cell, Histogram, Picture, Sink, Table

#: Maximum number of bins of a W&B histogram.
_MAX_BINS = 512
#: Environment variables with the rank, in order of preference.
_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")

#: Rows of tables by key, each with its point on the axis.
Tables = dict[str, list[tuple[int, Sequence[Cell]]]]

#: Runs that `open_run` started in this process, by id.
_started: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


class WandbSink(Sink):
    """Logs panels to a run, each over its own axis.

    W&B drops values that are logged at an earlier W&B step. So the point on the axis is logged as a
    value, too, and ``define_metric`` sets the axis of each key. If a resumed run logs points again,
    both are in the run; W&B cannot replace values.

    Args:
        target: A run, such as the ``experiment`` of Lightning's ``WandbLogger``, or keyword
            arguments of ``wandb.init``. With arguments, the run starts with the first log, in the
            first process only, and a copy of the sink continues the same run. The default ``id`` is
            that of the variable ``WANDB_RUN_ID``, or a new one.
        tables: Table rows of an interrupted run, its `tables`.

    Attributes:
        init: The arguments of ``wandb.init``, with the run's id.
    """

    def __init__(self, target: Any, *, tables: Tables | None = None) -> None:
        #: All rows are logged again each time, as W&B displays only the last table.
        self.tables: Tables = {} if tables is None else tables
        self._defined: set[str] = set()
        self.init: dict[str, Any] | None = None
        self._run: Any = None
        self._tried = self._over = False
        if isinstance(target, Mapping):
            given = target.get("id") or os.environ.get("WANDB_RUN_ID")
            self.init = {**target, "id": given or new_run_id()}
        else:
            self._run = target

    @property
    def run(self) -> Any:
        """The run; ``None`` in processes after the first, and if it could not start."""
        if self.init is not None and not self._tried:
            self._tried = True
            if is_main_process():
                self._start(self.init)
        return self._run

    def _start(self, init: dict[str, Any]) -> None:
        try:
            self._run = open_run(init)
        except Exception as error:
            warnings.warn(
                f"{type(self).__name__} could not start its run, so nothing is logged to W&B:"
                f" {type(error).__name__}: {' '.join(str(error).split())[:300]}. Training"
                " continues. In offline mode (mode='offline' or WANDB_MODE=offline) W&B needs"
                " neither a network nor an account.",
                RuntimeWarning,
                stacklevel=5,
            )
            return
        # In a sweep or an already active run the id differs; a disabled run has no valid id.
        if not getattr(self._run, "disabled", False):
            init["id"] = self._run.id

    def log(self, panels: Mapping[str, Any], *, axis: str, at: int) -> None:
        """Logs a row of the run's history.

        Args:
            panels: Panels by any key, or other values that `to_wandb` supports; others are left
                out.
            axis: Name of the axis.
            at: Point on the axis, from 0.
        """
        if self.run is None or self._over:
            return
        values = {key: self._value(key, panel, axis, at) for key, panel in panels.items()}
        values = {key: value for key, value in values.items() if value is not None}
        for key in (axis, *values):
            # Each key separately: if several patterns match, W&B uses any of them, and a Trainer's
            # logger defines one for all keys. W&B allows a star only at the end of a key.
            if key not in self._defined and "*" not in key:
                self.run.define_metric(key, step_metric=None if key == axis else axis)
            self._defined.add(key)
        if values:
            self.run.log({**values, axis: at})

    def _value(self, key: str, panel: Any, axis: str, at: int) -> Any:
        if isinstance(panel, Path):
            self._log_file(key, panel, axis, at)
            return None
        return self._table(key, panel, at) if isinstance(panel, Table) else to_wandb(panel)

    def _table(self, key: str, table: Table, at: int) -> Any:
        """A W&B table with all rows so far."""
        import wandb

        before = [(point, row) for point, row in self.tables.get(key, []) if point < at]
        self.tables[key] = [*before, *((at, row) for row in table.rows)]
        columns = zip(*(row for _, row in self.tables[key]), strict=True)
        data = [list(row) for row in zip(*map(_uniform_cells, columns), strict=True)]
        return wandb.Table(columns=list(table.columns), data=data)

    def _log_file(self, key: str, path: Path, axis: str, at: int) -> None:
        """Logs a file or folder as a version of an artifact, with the point as an alias."""
        import wandb

        # The run's id makes the name unique in the project.
        name = re.sub(r"[^\w.-]", "-", f"{key}-{self.run.id}")
        artifact = wandb.Artifact(name, type="checkpoint", metadata={axis: at})
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path), name=path.name)
        self.run.log_artifact(artifact, aliases=["latest", f"{axis}-{at:03d}"])

    def settings(self, values: Mapping[str, Any]) -> None:
        """Adds the nested settings to the run's config."""
        if self.run is not None and not self._over:
            self.run.config.update(dict(values), allow_val_change=True)

    def close(self) -> None:
        """Finishes the run, if it started; waits for uploads."""
        over, self._over, self._tried = self._over, True, True
        if self._run is not None and not over:
            self._run.finish()

    def __getstate__(self) -> dict[str, Any]:
        # A copy resumes the run, if there is one.
        run = self._run
        init = self.init if self.init is not None else {"id": run.id, "project": run.project}
        resume = init.get("resume")
        init = {**init, "resume": resume if resume in {"must", "auto"} else "allow"}
        state = {**self.__dict__, "init": init, "_run": None, "_defined": set()}
        return {**state, "_tried": False, "_over": False}


def to_wandb(value: Any) -> Any:
    """Converts a value for ``run.log``.

    Args:
        value: A number, tensor, image (of PIL, Matplotlib or a panel), histogram, or W&B object.

    Returns:
        A number or W&B object; ``None`` for other types, and for a tensor or histogram without
        finite values.
    """
    import wandb
    from matplotlib.figure import Figure
    from PIL import Image
    from torch import Tensor

    if isinstance(value, Real) or (isinstance(value, Tensor) and value.ndim == 0):
        # Converts bools and numbers of NumPy and PyTorch to Python numbers.
        number: Any = value.item() if hasattr(value, "item") else value
        return int(number) if isinstance(number, bool) else number
    if isinstance(value, Tensor):
        numbers = value.detach().cpu().double().numpy()
        numbers = numbers[np.isfinite(numbers)]
        return wandb.Histogram(np_histogram=np.histogram(numbers)) if len(numbers) else None
    if isinstance(value, Histogram):
        return _histogram(value.counts) if value.counts else None
    if isinstance(value, Picture):
        # For an array, W&B would guess the range.
        picture = Image.fromarray(np.ascontiguousarray(value.pixels))
        return wandb.Image(picture, caption=value.caption or None)
    if isinstance(value, Image.Image):
        plain = value.mode in {"L", "RGB", "RGBA"}
        return wandb.Image(value if plain else value.convert("RGB"))
    if isinstance(value, Figure):
        return wandb.Image(value)
    known = (wandb.data_types.WBValue, wandb.plot.CustomChart)
    return value if isinstance(value, known) else None


def _histogram(counts: Mapping[int, int]) -> Any:
    """A histogram with one bin per label, or per several labels if there are many."""
    import wandb

    first, last = min(counts), max(counts)
    width = -(-(last - first + 1) // _MAX_BINS)
    bins = [0] * -(-(last - first + 1) // width)
    for label, count in counts.items():
        bins[(label - first) // width] += count
    edges = [first - 0.5 + width * i for i in range(len(bins) + 1)]
    return wandb.Histogram(np_histogram=(np.array(bins), np.array(edges)))


def _uniform_cells(cells: Sequence[Cell]) -> list[Any]:
    """Converts a table's column to cells of one type or ``None``, as W&B requires."""
    if any(isinstance(cell, np.ndarray) for cell in cells):
        return [to_wandb(Picture(c)) if isinstance(c, np.ndarray) else None for c in cells]
    if any(isinstance(cell, str) and cell for cell in cells):
        return [str(cell) for cell in cells]
    return [None if isinstance(cell, str) or cell != cell else cell for cell in cells]


def is_main_process() -> bool:
    """Whether this is the only process or has rank 0."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    given = (os.environ.get(name, "") for name in _RANKS)
    ranks = [int(rank) for rank in given if rank.strip().isdecimal()]
    return not ranks or ranks[0] == 0


def new_run_id() -> str:
    """A random run id of eight letters and digits, like W&B's own."""
    # Does not use the global generators, which training uses.
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def open_run(init: dict[str, Any]) -> Any:
    """Starts or resumes a run, or returns an existing one.

    An open run with the same id is returned, and so is an active run that the user's program
    started. An active run that was started here stays open in addition to the new one.

    Args:
        init: Keyword arguments of ``wandb.init``, with an ``id``.

    Returns:
        The run.

    Raises:
        Exception: From ``wandb.init``: no network, account or disk space.
    """
    import wandb

    active = wandb.run
    started = _started.get(init["id"])
    # W&B has no public attribute for the end of a run.
    if started is not None and not getattr(started, "_is_finished", False):
        return started
    if active is not None and _started.get(active.id) is not active:
        return active
    if active is not None:
        init = {"reinit": "create_new", **init}
    run = wandb.init(**init)
    _started[run.id] = run
    return run

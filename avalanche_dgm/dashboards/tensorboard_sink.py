"""Panels in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avalanche_dgm.dashboards.sinks import Histogram, Panel, Picture, Sink, Table


class TensorBoardSink(Sink):
    """Writes panels with PyTorch's ``SummaryWriter``.

    The point of the axis is TensorBoard's step; the prefix of a key tells its axis. Tables with
    images are left out, as their images are in other panels, too.

    Args:
        target: A folder, or a ``SummaryWriter`` such as the ``writer`` of Avalanche's
            ``TensorboardLogger`` or the ``experiment`` of Lightning's.
    """

    def __init__(self, target: str | Path | Any) -> None:
        self._folder = str(target) if isinstance(target, (str, Path)) else None
        self._writer: Any = None if self._folder is not None else target

    @property
    def writer(self) -> Any:
        """The ``SummaryWriter``; opened when something is logged."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._folder)
        return self._writer

    def log(self, panels: Mapping[str, Panel], *, axis: str, at: int) -> None:
        """See `Sink.log`; of a file its path is logged."""
        for key, panel in panels.items():
            if isinstance(panel, Picture):
                self.writer.add_image(key, panel.pixels, at, dataformats="HWC")
            elif isinstance(panel, Histogram):
                if panel.counts:
                    # A bin for each label, from half below it to half above.
                    bins = np.arange(max(panel.counts) + 2) - 0.5
                    labels = np.repeat(list(panel.counts), list(panel.counts.values()))
                    self.writer.add_histogram(key, labels, at, bins=bins)
            elif isinstance(panel, Table):
                self._add_table(key, panel, at)
            elif isinstance(panel, Path):
                self.writer.add_text(key, str(panel), at)
            else:
                self.writer.add_scalar(key, panel, at)

    def _add_table(self, key: str, table: Table, at: int) -> None:
        """Adds the rows of this point, as text."""
        if any(isinstance(cell, np.ndarray) for row in table.rows for cell in row):
            return
        lines = ["| " + " | ".join(map(str, row)) + " |" for row in [table.columns, *table.rows]]
        lines.insert(1, "|" + " --- |" * len(table.columns))
        self.writer.add_text(key, "\n".join(lines), at)

    def flush(self) -> None:
        """See `Sink.flush`."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """See `Sink.close`; a writer given by the user stays open."""
        self.flush()
        if self._folder is not None and self._writer is not None:
            self._writer.close()
            self._writer = None

    def __getstate__(self) -> dict[str, Any]:
        # What was logged so far must come before what the copy logs.
        self.flush()
        # An open file cannot be pickled: the folder is opened again.
        folder = self._folder if self._folder is not None else str(self._writer.log_dir)
        return {"_folder": folder, "_writer": None}

"""Panels in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avalanche_dgm.dashboards.sinks import Histogram, Panel, Picture, Sink, Table


class TensorBoardSink(Sink):
    """Writes panels with PyTorch's ``SummaryWriter``.

    TensorBoard's step is the point on the axis, which depends on the prefix of the key. Tables with
    images are left out, as their images are also in other panels.

    Args:
        target: A folder, or a ``SummaryWriter`` such as the ``writer`` of Avalanche's
            ``TensorboardLogger`` or the ``experiment`` of Lightning's.
    """

    def __init__(self, target: str | Path | Any) -> None:
        self._folder = str(target) if isinstance(target, (str, Path)) else None
        self._writer: Any = None if self._folder is not None else target

    @property
    def writer(self) -> Any:
        """The ``SummaryWriter``, opened on first access."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._folder)
        return self._writer

    def log(self, panels: Mapping[str, Panel], *, axis: str, at: int) -> None:
        """See `Sink.log`; files are logged as paths."""
        for key, panel in panels.items():
            if isinstance(panel, Picture):
                self.writer.add_image(key, panel.pixels, at, dataformats="HWC")
            elif isinstance(panel, Histogram):
                if panel.counts:
                    # One bin per label, from label - 0.5 to label + 0.5.
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
        """Logs a table's rows at this point as text."""
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
        # Events so far must be in files before those of the copy.
        self.flush()
        # An open writer cannot be pickled: the copy opens the folder again.
        folder = self._folder if self._folder is not None else str(self._writer.log_dir)
        return {"_folder": folder, "_writer": None}

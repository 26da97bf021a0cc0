"""A place to show panels that keeps them, for tests."""

from pathlib import Path

import numpy as np

from avalanche_dgm.dashboards.sinks import Histogram, Picture, Sink, Table


class Recording(Sink):
    """Keeps what it is shown, in order."""

    def __init__(self):
        self.shown, self.config = [], {}
        self.closed = self.flushed = 0

    def settings(self, values):
        self.config |= values

    def log(self, panels, *, axis, at):
        for key, panel in panels.items():
            if isinstance(panel, Picture):
                pixels = panel.pixels
                assert pixels.dtype == np.uint8
                assert pixels.ndim == 3
                assert pixels.shape[2] == 3
                shown = ("image", pixels.shape, pixels.tobytes(), panel.caption)
            elif isinstance(panel, Histogram):
                shown = ("histogram", dict(panel.counts))
            elif isinstance(panel, Table):
                assert all(len(row) == len(panel.columns) for row in panel.rows)
                shown = ("table", list(panel.columns), [list(map(_plain, r)) for r in panel.rows])
            elif isinstance(panel, Path):
                shown = ("file", str(panel))
            else:
                assert isinstance(panel, (int, float)), key
                shown = ("scalar", float(panel))
            self.shown.append((shown[0], axis, at, key, *shown[1:]))

    def flush(self):
        self.flushed += 1

    def close(self):
        self.closed += 1

    def names(self, kind=None):
        return {key for what, _, _, key, *_ in self.shown if kind in (None, what)}

    def values(self, key):
        """A key's numbers by their points."""
        return {at: rest[0] for _, _, at, k, *rest in self.shown if k == key}

    def without_times(self):
        """What does not depend on the machine."""
        timed = ("time/", "sleeps/seconds")
        return [panel for panel in self.shown if not panel[3].startswith(timed)]


def _plain(cell):
    return cell.tobytes() if isinstance(cell, np.ndarray) else cell


class Failing(Recording):
    """Fails, as a full disk or a network that is gone."""

    def _fail(self, *args, **kwargs):
        raise OSError("No space left on device")

    settings = log = flush = close = _fail

"""A place to show panels that keeps them, for tests."""

import numpy as np

from avalanche_dgm.dashboards.sinks import Sink


class Recording(Sink):
    """Keeps what it is shown, in order."""

    def __init__(self):
        self.shown, self.config = [], {}
        self.closed = self.flushed = 0

    def settings(self, values):
        self.config |= values

    def scalars(self, values, *, axis, at):
        for key, value in values.items():
            assert isinstance(value, (int, float)), key
            self.shown.append(("scalar", axis, at, key, float(value)))

    def image(self, key, pixels, *, axis, at, caption=""):
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        self.shown.append(("image", axis, at, key, pixels.shape, pixels.tobytes(), caption))

    def histogram(self, key, counts, *, axis, at):
        self.shown.append(("histogram", axis, at, key, dict(counts)))

    def table(self, key, columns, rows, *, axis, at):
        cells = [[c.tobytes() if isinstance(c, np.ndarray) else c for c in row] for row in rows]
        assert all(len(row) == len(columns) for row in rows)
        self.shown.append(("table", axis, at, key, list(columns), cells))

    def file(self, key, path, *, axis, at):
        self.shown.append(("file", axis, at, key, str(path)))

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


class Failing(Recording):
    """Fails, as a full disk or a network that is gone."""

    def _fail(self, *args, **kwargs):
        raise OSError("No space left on device")

    settings = scalars = image = histogram = table = file = flush = close = _fail

"""Base of the metrics with a ``plot`` method, as in torchmetrics."""

from __future__ import annotations

from typing import Any

from torchmetrics import Metric


class PlottedMetric(Metric):
    """A metric whose values can be drawn."""

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draws a value, or several values as a curve.

        Args:
            val: A value from `compute` or `forward`, or a list of them; ``None`` for the current
                value.
            ax: Matplotlib's axes to draw into; ``None`` for a new figure.

        Returns:
            The figure, or ``None`` with ``ax``, and the axes.
        """
        return self._plot(val, ax)

"""Base of the metrics that draw what they computed, as those of torchmetrics do."""

from __future__ import annotations

from typing import Any

from torchmetrics import Metric


class PlottedMetric(Metric):
    """A metric whose values can be drawn."""

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draws a value, or several values as a curve.

        Args:
            val: What `compute` or `forward` returned, or a list of such values; ``None`` for the
                value of now.
            ax: Matplotlib's axes to draw into; ``None`` for a new figure.

        Returns:
            The figure, ``None`` if the axes were given, and the axes.
        """
        return self._plot(val, ax)

"""Progress bars that show the experience and the phase."""

from __future__ import annotations

from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning import internals
from avalanche_dgm.lightning.package import pl


def describe(trainer: pl.Trainer, fallback: str) -> str:
    """The module's ``stage_name``, and the epoch if there are several."""
    name = getattr(trainer.lightning_module, "stage_name", "")
    if not name:
        return fallback
    epochs = trainer.max_epochs or 1
    return name if epochs == 1 else f"{name}, epoch {trainer.current_epoch + 1}/{epochs}"


class StreamProgressBar(pl.callbacks.TQDMProgressBar):
    """Lightning's tqdm bar with the experience and the phase.

    Args:
        refresh_rate: Steps between two updates; 0 shows no bar.
        leave: Whether to keep finished bars.
    """

    def __init__(
        self, refresh_rate: int = 20, process_position: int = 0, leave: bool = False
    ) -> None:
        super().__init__(refresh_rate, process_position, leave)
        self.leaves = leave

    def init_test_tqdm(self) -> Any:
        """The bar of a test, removed at its end unless ``leave``."""
        bar = super().init_test_tqdm()
        bar.leave = self.leaves
        return bar

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(describe(trainer, f"Epoch {trainer.current_epoch}"))


class StreamRichProgressBar(pl.callbacks.RichProgressBar):
    """Lightning's rich bar with the experience and the phase.

    Raises:
        ConfigError: The package rich is not installed.
    """

    def __init__(self, **choices: Any) -> None:
        try:
            super().__init__(**choices)
        except ModuleNotFoundError as error:
            raise ConfigError(
                "This progress bar needs the package rich: pip install rich. Or use"
                " StreamProgressBar."
            ) from error

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        name = describe(trainer, "")
        if name and self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, description=name)


def with_stage_names(bar: pl.Callback) -> pl.Callback:
    """Replaces Lightning's own progress bars by those of this module.

    Returns:
        A bar with the same settings; other callbacks unchanged.
    """
    if type(bar) is pl.callbacks.TQDMProgressBar:
        # At Lightning's default of 1 an update takes longer than a step of a small network.
        rate = 20 if bar.refresh_rate == 1 else bar.refresh_rate
        return StreamProgressBar(**{**internals.bar_settings(bar), "refresh_rate": rate})
    if type(bar) is pl.callbacks.RichProgressBar:
        return StreamRichProgressBar(**internals.bar_settings(bar))
    return bar

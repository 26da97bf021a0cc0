"""Progress bars show what is being learned."""

import io
import re

import pytest
import torch
from torch.utils.data import DataLoader

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.progress import (
    StreamProgressBar,
    StreamRichProgressBar,
    with_stage_names,
)


class Named(pl.LightningModule):
    """Trains nothing to speak of, under a name."""

    def __init__(self, stage_name=None):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        if stage_name is not None:
            self.stage_name = stage_name

    def training_step(self, batch, batch_idx):
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, bar, *, epochs=1):
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[bar],
    )
    trainer.fit(module, DataLoader(torch.ones(6, 1), batch_size=2))


def shown(capsys):
    """What was on the terminal, without its movements of the cursor."""
    captured = capsys.readouterr()
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", captured.out + captured.err)


class TestTqdm:
    def test_one_epoch(self, capsys):
        fit(Named("experience 3: digits 4/5"), StreamProgressBar(refresh_rate=1))
        text = shown(capsys)
        assert re.search(r"experience 3: digits 4/5: +100%.*3/3", text)
        assert "experience 3" in text.strip().splitlines()[-1]
        assert "100%" not in "".join(line for line in text.split("\r") if "Epoch" in line)

    def test_several_epochs(self, capsys):
        fit(Named("sleep: consolidating"), StreamProgressBar(refresh_rate=1), epochs=2)
        text = shown(capsys)
        assert "sleep: consolidating, epoch 1/2: " in text
        assert "sleep: consolidating, epoch 2/2: " in text
        assert "100%" not in "".join(line for line in text.split("\r") if "Epoch" in line)

    @pytest.mark.parametrize("name", [None, ""])
    def test_modules_without_a_name_show_the_epoch(self, name, capsys):
        fit(Named(name), StreamProgressBar(refresh_rate=1))
        assert "Epoch 0: " in shown(capsys)

    def test_nothing_is_shown_if_nothing_shall_be(self, capsys):
        fit(Named("experience 3"), with_stage_names(pl.callbacks.TQDMProgressBar(refresh_rate=0)))
        assert "experience 3" not in shown(capsys)


class TestNaming:
    @pytest.mark.parametrize(("given", "expected"), [(0, 0), (1, 20), (7, 7), (50, 50)])
    def test_settings_are_kept(self, given, expected):
        bar = with_stage_names(
            pl.callbacks.TQDMProgressBar(refresh_rate=given, process_position=1, leave=True)
        )
        assert type(bar) is StreamProgressBar
        assert (bar.refresh_rate, bar.process_position, bar._leave) == (expected, 1, True)

    def test_others_are_left_alone(self):
        class Own(pl.callbacks.TQDMProgressBar):
            pass

        for callback in (Own(), StreamProgressBar(), pl.Callback()):
            assert with_stage_names(callback) is callback


class TestRich:
    @pytest.mark.parametrize("epochs", [1, 2])
    def test_names_the_stage(self, epochs):
        screen = io.StringIO()
        bar = with_stage_names(
            pl.callbacks.RichProgressBar(
                refresh_rate=1,
                console_kwargs={"file": screen, "force_terminal": True, "width": 120},
            )
        )
        assert type(bar) is StreamRichProgressBar
        fit(Named("experience 3: digits 4/5"), bar, epochs=epochs)
        name = "experience 3: digits 4/5"
        last = name if epochs == 1 else f"{name}, epoch {epochs}/{epochs}"
        assert last in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())


def test_says_how_to_get_rich(monkeypatch):
    """What Lightning looks at where rich is not installed."""
    monkeypatch.setattr(pl.callbacks.progress.rich_progress, "_RICH_AVAILABLE", False)
    with pytest.raises(ConfigError, match="pip install rich"):
        StreamRichProgressBar()

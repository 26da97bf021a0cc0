"""LightningModules of the methods, and training over streams with a Trainer.

Only this folder imports PyTorch Lightning, through its module `package`.
"""

from avalanche_dgm.lightning.callbacks import StreamCallback
from avalanche_dgm.lightning.dashboard import DashboardCallback
from avalanche_dgm.lightning.data import StreamDataModule
from avalanche_dgm.lightning.module import MethodModule
from avalanche_dgm.lightning.modules import (
    ALTMModule,
    DGDMNModule,
    DGRModule,
    DynamicMemoryModule,
    EWCGeneratorModule,
    GANReplayModule,
    LatentReplayModule,
    MeRGANModule,
    NaiveModule,
    PseudoRehearsalModule,
)
from avalanche_dgm.lightning.networks import ClassifierModule, VAEModule
from avalanche_dgm.lightning.progress import StreamProgressBar, StreamRichProgressBar
from avalanche_dgm.lightning.results import StreamResult
from avalanche_dgm.lightning.strategies import run_on_trainer
from avalanche_dgm.lightning.stream import fit_stream

__all__ = [
    "ALTMModule",
    "ClassifierModule",
    "DGDMNModule",
    "DGRModule",
    "DashboardCallback",
    "DynamicMemoryModule",
    "EWCGeneratorModule",
    "GANReplayModule",
    "LatentReplayModule",
    "MeRGANModule",
    "MethodModule",
    "NaiveModule",
    "PseudoRehearsalModule",
    "StreamCallback",
    "StreamDataModule",
    "StreamProgressBar",
    "StreamResult",
    "StreamRichProgressBar",
    "VAEModule",
    "fit_stream",
    "run_on_trainer",
]

"""An Avalanche plugin that logs a generator to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avalanche.core import SupervisedPlugin
from torch import distributed

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.methods.adversarial import GANMethod
from avalanche_dgm.metrics.generator_log import GeneratorLog
from avalanche_dgm.metrics.generator_quality import GeneratorQuality
from avalanche_dgm.plugins.experiences import starts_task
from avalanche_dgm.plugins.metrics import find_plugins


class GeneratorObserver(SupervisedPlugin):
    """Writes samples, sizes, mask usage and quality of a GAN to files after each experience.

    Give it to a strategy with the plugin of a method with a GAN, in any order; training is not
    changed. See `avalanche_dgm.metrics.GeneratorLog` for the files and for frameworks other than
    Avalanche::

        memory = DynamicMemoryPlugin()
        strategy = Naive(..., plugins=[memory, GeneratorObserver("runs/dgm")])

    Args:
        folder: Folder of the files.
        watched: The plugin or its method; ``None`` for the strategy's only plugin with a GAN.
        quality: Measures samples after each experience, or ``None``. It is saved in the strategy's
            checkpoints.
        n_samples: Samples per class in an image.
        seed: Seed of the samples' noise.

    Raises:
        ConfigError: ``watched`` has no GAN, or ``n_samples`` is below 1.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        watched: Any = None,
        quality: GeneratorQuality | None = None,
        n_samples: int = 10,
        seed: int = 0,
    ) -> None:
        """See the class for the arguments."""
        super().__init__()
        self.log = GeneratorLog(folder, watched, quality=quality, n_samples=n_samples, seed=seed)
        self._noted: int | None = None

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Logs an experience that ended after this plugin's last hook."""
        if self.log.method is None:
            self.log.attach(_only_method(strategy))
        if self._noted is None:
            self._noted = self.log.memory.experiences
        self._log_new()

    def after_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Starts to record the masks, after the method's plugin has started the experience."""
        if starts_task(strategy.experience):
            self.log.watch()

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._log_new()

    def after_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Logs the experience if the method's plugin comes after this one."""
        self._log_new()

    def _log_new(self) -> None:
        log = self.log
        if log.memory.experiences == self._noted:
            return
        self._noted = log.memory.experiences
        is_distributed = distributed.is_available() and distributed.is_initialized()
        # All processes have the same state.
        if is_distributed and distributed.get_rank():
            log.unwatch()
        else:
            log.note()


def _only_method(strategy: Any) -> GANMethod:
    methods = [plugin.method for plugin in find_plugins(strategy)]
    found = [method for method in methods if isinstance(method, GANMethod)]
    if len(found) != 1:
        raise ConfigError(
            f"The strategy has {len(found)} plugins with a generative adversarial network, but"
            " GeneratorObserver observes one. Give the strategy one of them, or pass"
            " watched=plugin."
        )
    return found[0]

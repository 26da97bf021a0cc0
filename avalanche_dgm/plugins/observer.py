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
    """Writes files after each training experience: samples, sizes, use of masks, quality.

    Give it to a strategy beside the plugin of a memory that is a generative adversarial network, in
    any order. See `avalanche_dgm.metrics.GeneratorLog` for the files and for frameworks other than
    Avalanche. What is learned is the same without it::

        memory = DynamicMemoryPlugin()
        strategy = Naive(..., plugins=[memory, GeneratorObserver("runs/dgm")])

    Args:
        folder: Where to write.
        watched: The plugin or its method; ``None`` for the only such plugin that the strategy has.
        quality: Measures samples after each experience, or ``None``. It becomes a part of the
            strategy's checkpoints.
        n_samples: Samples of each class in a picture.
        seed: Seed of their noise.

    Raises:
        ConfigError: What is watched is no such memory, or ``n_samples`` is below 1.
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
        self._note()

    def after_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Starts to watch the masks: by now the method's plugin has started the experience."""
        if starts_task(strategy.experience):
            self.log.watch()

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Logs the experience."""
        self._note()

    def after_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Logs it if the method's plugin comes after this one."""
        self._note()

    def _note(self) -> None:
        log = self.log
        if log.memory.experiences == self._noted:
            return
        self._noted = log.memory.experiences
        several = distributed.is_available() and distributed.is_initialized()
        # All processes have the same state.
        if several and distributed.get_rank():
            log.unwatch()
        else:
            log.note()


def _only_method(strategy: Any) -> GANMethod:
    methods = [plugin.method for plugin in find_plugins(strategy)]
    found = [method for method in methods if isinstance(method, GANMethod)]
    if len(found) != 1:
        raise ConfigError(
            f"The strategy has {len(found)} plugins of a memory that is a generative adversarial"
            " network, and GeneratorObserver needs to know which one to watch. Give the strategy"
            " one of them, or say watched=plugin."
        )
    return found[0]

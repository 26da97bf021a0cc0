"""The runs of the papers' figures and tables, which share equal runs.

A run is in ``OUT/paper-runs``, in a folder named after its stream, method, seed and a digest of the
settings that affect its result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments import storage
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.results import RunResult
from avalanche_dgm.experiments.runner import RunOptions
from avalanche_dgm.experiments.sweep import Configs, run_all
from avalanche_dgm.methods import Method, Naive
from avalanche_dgm.saving import load_memory

#: Subfolder of these runs.
FOLDER = "paper-runs"


def run_name(config: ExperimentConfig) -> str:
    """The name of a run's folder, equal for runs with equal results.

    Args:
        config: Its settings. Only those that differ from the defaults count, so that new settings
            do not change names.
    """
    usual = ExperimentConfig(method=config.method, stream=config.stream).in_result()
    changed = {name: v for name, v in config.in_result().items() if v != usual[name]}
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:10]
    return f"{config.stream}-{config.method}-seed{config.seed}-{digest}"


@dataclass(frozen=True)
class PaperRun:
    """A finished run.

    Attributes:
        result: Its result.
        folder: Folder of its files, such as those of a `GeneratorLog`.
    """

    result: RunResult
    folder: Path

    @cached_property
    def stream(self) -> Any:
        """Its Avalanche benchmark, rebuilt."""
        from avalanche_dgm.experiments.building import build_stream, seed_everything

        seed_everything(self.result.config.seed)
        return build_stream(self.result.config)

    def test_images(self) -> tuple[Any, Any]:
        """All test images of its stream, float tensor (n, *shape), and their labels (n,)."""
        import torch

        samples = [
            dataset[i]
            for dataset in (e.dataset.eval() for e in self.stream.test_stream)
            for i in range(len(dataset))
        ]
        images = torch.stack([sample[0] for sample in samples])
        return images, torch.tensor([int(sample[1]) for sample in samples])

    def memory(self) -> Method:
        """The trained method with its memories and classifier.

        For a reference method it is the classifier in a method without a memory.

        Raises:
            ConfigError: The run's folder has no file of it.
            CheckpointError: The file cannot be read.
        """
        import torch

        from avalanche_dgm.experiments.on_avalanche import replay_plugin
        from avalanche_dgm.experiments.run_spec import RunSpec
        from avalanche_dgm.experiments.strategies import build_strategy

        path = self.folder / storage.MEMORY
        if not path.is_file():
            raise ConfigError(
                f"{self.folder} has no {storage.MEMORY}, which is needed here. Train that run"
                " again: remove its folder, or use --overwrite."
            )
        spec = RunSpec(self.result.config, self.stream)
        strategy = build_strategy(spec, [], device=torch.device("cpu"))
        plugin = replay_plugin(strategy)
        target: Any = Naive() if plugin is None else plugin
        load_memory(target, path, model=strategy.model)
        method: Method = getattr(target, "method", target)
        return method


@dataclass
class PaperRuns:
    """Trains missing runs; unfinished ones always resume.

    Attributes:
        out: Folder of all runs.
        options: How to run them; without ``overwrite`` they resume, and all keep their memories.
    """

    out: Path
    options: RunOptions = field(default_factory=RunOptions)
    _done: dict[Path, PaperRun] = field(default_factory=dict)

    def folder_of(self, config: ExperimentConfig) -> Path:
        """The folder of a run."""
        return storage.run_folder(self.out, f"{FOLDER}/{run_name(config)}")

    def train(self, configs: Configs) -> dict[str, list[PaperRun]]:
        """Trains missing runs; see `avalanche_dgm.experiments.sweep.run_all`.

        Args:
            configs: The configs of each row, one per seed.

        Returns:
            The runs in the same order.
        """
        folders = {row: [self.folder_of(c) for c in seeds] for row, seeds in configs.items()}
        planned = [
            (f"{folder.name}: {row}", config, folder)
            for row, seeds in configs.items()
            for config, folder in zip(seeds, folders[row], strict=True)
            if folder not in self._done
        ]
        options = replace(self.options, resume=not self.options.overwrite, keep_memory=True)
        results = run_all(planned, options)
        self._done |= {folder: PaperRun(result, folder) for folder, result in results.items()}
        return {row: [self._done[folder] for folder in seeds] for row, seeds in folders.items()}


def results_of(runs: Mapping[str, Sequence[PaperRun]]) -> dict[str, list[RunResult]]:
    """The results of runs, for the functions of `avalanche_dgm.plots`."""
    return {row: [run.result for run in seeds] for row, seeds in runs.items()}

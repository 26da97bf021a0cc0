"""A logger of Avalanche's evaluation plugin for Weights & Biases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from avalanche.evaluation.metric_results import AlternativeValues, TensorImage
from PIL import Image
from torch import Tensor

from avalanche_dgm.dashboards import keys
from avalanche_dgm.dashboards.sinks import FailSafeSink, Sink
from avalanche_dgm.dashboards.wandb_sink import WandbSink, to_wandb
from avalanche_dgm.errors import DataError
from avalanche_dgm.plugins.dashboard_logger import DashboardLogger


class WandBLogger(DashboardLogger):
    """Logs Avalanche's metrics and this package's panels to a run of Weights & Biases.

    Replaces ``avalanche.logging.WandBLogger``, with the same arguments, and works with current
    releases of W&B::

        logger = WandBLogger("my project", "dgr", config={"epochs": 5}, mode="offline")
        evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[logger])
        strategy = Naive(..., plugins=[DGRPlugin()], evaluator=evaluator)

    The evaluation plugin's metrics are logged under Avalanche's names, over the axis ``step``:
    numbers, tensors (as histograms), images, figures and W&B's own charts; others are left out. For
    the panels, also over ``experience`` and ``sleep``, see `avalanche_dgm.dashboards.keys`. The
    run's config then has all settings: the method's as ``method``, those of the strategy, its
    optimiser and other plugins as ``strategy``.

    The run starts with the first logged value, or on access to `run` or `wandb`, and only in the
    first process. A logger in a strategy's checkpoint resumes the run; offline, each part of the
    run has its own folder until ``wandb sync`` merges them. If logging fails, for example without a
    network, an account or disk space, there is a warning and training continues;
    ``mode="offline"`` needs only disk space. Tables are saved in checkpoints with their images.

    Args:
        project_name: Name of the project.
        run_name: Name of the run.
        log_artifacts: Whether to log the weights from the metric ``WeightCheckpoint``.
        path: Folder for these weights, relative to the working folder.
        uri: Address of a bucket, logged as a reference in addition to the weights; ``s3`` and
            ``gs`` need further packages for W&B.
        sync_tfboard: Whether W&B copies TensorBoard logs; starts the run at once, since existing
            writers are not copied.
        save_code: Whether W&B saves the program.
        config: Hyper-parameters to log.
        dir: Folder of W&B's files; ``None`` for ``WANDB_DIR`` or the working folder.
        params: Further arguments of ``wandb.init``, which override all others here: ``id`` and
            ``resume`` to resume a run (also ``WANDB_RUN_ID`` and ``WANDB_RESUME``), ``settings``,
            ``tags``.
        mode: ``"online"``, ``"offline"`` or ``"disabled"``; ``None`` for ``WANDB_MODE``.
        panels: Whether to log this package's panels in addition to Avalanche's metrics.
        samples_per_class: Samples per class in image grids.
        latents: Whether to embed the latents of test images after the last experience.

    Raises:
        ConfigError: ``samples_per_class`` is below 1.
    """

    def __init__(
        self,
        project_name: str = "Avalanche",
        run_name: str = "Test",
        log_artifacts: bool = False,
        path: str | Path = "Checkpoints",
        uri: str | None = None,
        sync_tfboard: bool = False,
        save_code: bool = True,
        config: Any = None,
        dir: str | Path | None = None,
        params: dict[str, Any] | None = None,
        *,
        mode: str | None = None,
        panels: bool = True,
        samples_per_class: int = 8,
        latents: bool = True,
    ) -> None:
        """See the class for the arguments."""
        super().__init__(samples_per_class=samples_per_class, latents=latents)
        self.project_name, self.run_name, self.config = project_name, run_name, config
        self.log_artifacts, self.path, self.uri = log_artifacts, path, uri
        self.sync_tfboard, self.save_code, self.dir = sync_tfboard, save_code, dir
        self.params, self.mode, self.panels = params, mode, panels
        settings = {
            "project": project_name,
            "name": run_name,
            "sync_tensorboard": sync_tfboard,
            "dir": dir,
            "save_code": save_code,
            "config": config,
            "mode": mode,
        }
        self._wandb = FailSafeSink(WandbSink({**settings, **(params or {})}))
        self.exp_count = 0
        self._rows: dict[int, dict[str, Any]] | None = None
        if self.init_kwargs["sync_tensorboard"]:
            _ = self.run

    @property
    def sink(self) -> WandbSink:
        """The W&B sink."""
        sink: Any = self._wandb.sink
        return sink

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """The arguments of ``wandb.init``, with the run's id."""
        return self.sink.init or {}

    @property
    def run(self) -> Any:
        """The run; ``None`` in processes after the first, and if it could not start."""
        return self.sink.run

    @property
    def wandb(self) -> Any:
        """The module ``wandb``, with this run active unless another one is."""
        import wandb

        _ = self.run
        return wandb

    @property
    def watches(self) -> bool:
        """Whether panels are logged."""
        return self.panels and super().watches

    def make_sinks(self) -> Sequence[Sink]:
        """The W&B sink, if the run could start."""
        return [self._wandb] if self.run is not None else []

    def log_metrics(self, metric_values: Any) -> None:
        """Logs the values of metrics, the numbers of each step in one row."""
        self._rows = {}
        super().log_metrics(metric_values)
        rows, self._rows = self._rows, None
        for at, values in rows.items():
            self._wandb.log(values, axis=keys.STEP, at=at)

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        """Logs a metric's value, or the first supported one of its alternatives."""
        at = int(x_plot)
        if name.startswith("WeightCheckpoint"):
            if self.log_artifacts and isinstance(value, bytes) and self.run is not None:
                self._wandb.attempt("weights", lambda: self._log_weights(name, value, at))
            return
        if self._rows is not None and isinstance(value, (int, float)):
            self._rows.setdefault(at, {})[name] = value
            return
        alternatives = value.alternatives if isinstance(value, AlternativeValues) else [value]
        values = map(_image_of, alternatives)
        supported = next((media for media in map(to_wandb, values) if media is not None), None)
        if supported is not None:
            self._wandb.log({name: supported}, axis=keys.STEP, at=at)

    def after_training_exp(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Logs the method's panels and, like Avalanche's logger, the number of the experience."""
        super().after_training_exp(strategy, metric_values, **kwargs)
        at = strategy.clock.train_iterations
        self._wandb.log({"TrainingExperience": self.exp_count}, axis=keys.STEP, at=at)
        self.exp_count += 1

    def close(self) -> None:
        """Finishes the run; waits for uploads."""
        super().close()
        self._wandb.close()

    def _log_weights(self, name: str, weights: bytes, at: int) -> None:
        """Saves a value of Avalanche's ``WeightCheckpoint``, and logs it as an artifact."""
        import wandb

        # Such as WeightCheckpoint/train_phase/train_stream/Task000/Exp000; the task may be missing.
        found = re.search(r"(?:/Task(\d+))?/Exp(\d+)$", name)
        if found is None:
            raise DataError(f"The checkpoint name {name!r} does not end with an experience.")
        metadata = {"experience": int(found[2]), "x_step": at}
        if found[1] is not None:
            metadata["task_id"] = int(found[1])
        path = Path.cwd() / self.path / f"Model_{int(found[2])}.pth"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(weights)
        artifact = wandb.Artifact(path.stem, type="model", metadata=metadata)
        artifact.add_file(str(path), name=f"Models/{path.name}")

        if self.uri is not None:
            # The weights are logged even if the reference fails. Without a checksum, for which W&B
            # would access the bucket.
            refer = partial(artifact.add_reference, self.uri, f"References/{path.name}")
            self._wandb.attempt(f"a reference to {self.uri}", partial(refer, checksum=False))
        self.run.log_artifact(artifact)


def _image_of(value: Any) -> Any:
    """Converts an Avalanche image to a PIL image; returns other values unchanged."""
    if not isinstance(value, TensorImage):
        return value
    pixels: Tensor = value.image.detach().cpu()
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4):
        pixels = pixels.permute(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.is_floating_point():
        pixels = (pixels.float().nan_to_num().clamp(0, 1) * 255).round()
    return Image.fromarray(pixels.to(torch.uint8).contiguous().numpy())

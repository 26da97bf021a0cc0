"""A logger of Avalanche's evaluation plugin for Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from avalanche.logging import BaseLogger

from avalanche_dgm.dashboards import keys
from avalanche_dgm.dashboards.lazy_wandb import LazyWandbRun
from avalanche_dgm.dashboards.sinks import Sink
from avalanche_dgm.dashboards.wandb_runs import is_main_process
from avalanche_dgm.dashboards.wandb_sink import FailSafeWandbSink
from avalanche_dgm.plugins.dashboard_logger import DashboardLogger
from avalanche_dgm.plugins.wandb_values import best_of, converted, kind_of, weights_artifact


class _OfAnyProcess(BaseLogger):
    """A logger that may be made in every process: those that must not log have no run."""

    def __init__(self) -> None:
        # Past Avalanche's own, which refuses to be made in others than the first process.
        super(BaseLogger, self).__init__()


class WandBLogger(DashboardLogger, _OfAnyProcess):
    """Logs Avalanche's metrics and this package's panels to a run of Weights & Biases.

    Takes the place of ``avalanche.logging.WandBLogger``, with the same arguments, and works with
    current releases of W&B::

        logger = WandBLogger("my project", "dgr", config={"epochs": 5}, mode="offline")
        evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[logger])
        strategy = Naive(..., plugins=[DGRPlugin()], evaluator=evaluator)

    Every metric that is given to the evaluation plugin is logged under Avalanche's name, over the
    axis ``step``: numbers, tensors (as histograms), images, figures and W&B's own charts; others
    are left out. For the panels, over ``experience`` and ``sleep`` as well, see
    `avalanche_dgm.dashboards.keys`. With them the run's config has the method's settings, such as
    ``method/stm_size``.

    The run begins with what is first logged, or when `run` or `wandb` is asked for. Only the first
    of several processes has one. A logger in a checkpoint of the strategy goes on in the same run;
    offline, the parts of a run lie in a folder each until ``wandb sync`` puts them together. What
    cannot be logged, for want of a network, an account or space, is said in a warning, and training
    goes on; ``mode="offline"`` needs none but the space. Tables stay in a checkpoint with their
    pictures.

    Args:
        project_name: Name of the project.
        run_name: Name of the run.
        log_artifacts: Whether to log the weights that the metric ``WeightCheckpoint`` gives.
        path: Where to save them, below the working folder.
        uri: Address of a bucket, which artifacts refer to beside the weights; ``s3`` and ``gs``
            need the packages that W&B asks for.
        sync_tfboard: Whether W&B copies what goes to TensorBoard; begins the run at once, since
            writers that are there already are not copied.
        save_code: Whether W&B saves the program.
        config: Hyper-parameters to log.
        dir: Where W&B's files go; ``None`` for ``WANDB_DIR`` or the working folder.
        params: Further arguments of ``wandb.init``, before all others here: ``id`` and ``resume``
            to go on in a run (also ``WANDB_RUN_ID`` and ``WANDB_RESUME``), ``settings``, ``tags``.
        mode: ``"online"``, ``"offline"`` or ``"disabled"``; ``None`` for ``WANDB_MODE``.
        panels: Whether to log this package's panels; without them only Avalanche's metrics.
        samples_per_class: Samples of each class in images.
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
        self._lazy = LazyWandbRun({**settings, **(params or {})}, type(self).__name__)
        self.exp_count = 0
        self._row: dict[int, dict[str, Any]] | None = None
        if self.init_kwargs["sync_tensorboard"]:
            _ = self.run

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """What ``wandb.init`` is given, with the run's id."""
        return self._lazy.settings

    @property
    def run(self) -> Any:
        """The run; ``None`` in other processes, and if it could not start."""
        return self._lazy.run

    @property
    def wandb(self) -> Any:
        """The module ``wandb``, in which this run is the active one if no other is."""
        import wandb

        _ = self.run
        return wandb

    def make_sinks(self) -> Sequence[Sink]:
        """The run, if there is one and it shall have panels."""
        sink = self._lazy.sink if self.panels else None
        return [sink] if sink is not None else []

    def log_metrics(self, metric_values: Any) -> None:
        """Logs the values of metrics, the numbers of a point in one row.

        Args:
            metric_values: What the evaluation plugin gives.
        """
        self._row = {}
        super().log_metrics(metric_values)
        rows, self._row = self._row, None
        for at, values in rows.items():
            self._log("numbers", values, at)

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        """Logs the value of a metric; one that W&B cannot show is left out.

        Args:
            name: Avalanche's name of it.
            value: The value, or alternatives of which the first that can be shown is logged.
            x_plot: Where on the axis ``step``.
        """
        if name.startswith("WeightCheckpoint"):
            sink = self._lazy.sink if self.log_artifacts and isinstance(value, bytes) else None
            if sink is not None:
                weights = partial(self._log_weights, sink, name, value, int(x_plot))
                sink.attempt("weights", weights)
            return
        value = best_of(value)
        kind = kind_of(value)
        if kind == "numbers" and self._row is not None:
            self._row.setdefault(int(x_plot), {})[name] = value
        elif kind is not None:
            self._log(kind, {name: value}, int(x_plot))

    @property
    def _watches(self) -> bool:
        # Also where the run could not begin: where training continues it may, and the experiences
        # are counted.
        return self.panels and is_main_process()

    def after_training_iteration(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Adds a batch, if there are panels."""
        if self._watches:
            super().after_training_iteration(strategy, metric_values, **kwargs)

    def after_training_exp(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Logs the method's panels, and counts the experience as Avalanche's logger does."""
        if self._watches:
            super().after_training_exp(strategy, metric_values, **kwargs)
        at = strategy.clock.train_iterations
        self._log("numbers", {"TrainingExperience": self.exp_count}, at)
        self.exp_count += 1

    def before_eval(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Resets the accuracies, if there are panels."""
        if self._watches:
            super().before_eval(strategy, metric_values, **kwargs)

    def after_eval_iteration(self, strategy: Any, metric_values: Any, **kwargs: Any) -> None:
        """Adds a batch, if there are panels."""
        if self._watches:
            super().after_eval_iteration(strategy, metric_values, **kwargs)

    def close(self) -> None:
        """Finishes the run; waits until everything is uploaded."""
        super().close()
        self._lazy.finish()

    def _log(self, what: str, values: dict[str, Any], at: int) -> None:
        sink = self._lazy.sink
        if sink is None:
            return

        def log() -> None:
            shown = {name: converted(value) for name, value in values.items()}
            shown = {name: value for name, value in shown.items() if value is not None}
            if shown:
                sink.sink.log(shown, axis=keys.STEP, at=at)

        sink.attempt(what, log)

    def _log_weights(self, sink: FailSafeWandbSink, name: str, value: bytes, at: int) -> None:
        artifact, path = weights_artifact(name, value, Path.cwd() / self.path, at)

        def refer() -> None:
            # Without a checksum, for which W&B would ask the bucket, and wait for an answer.
            artifact.add_reference(self.uri, f"References/{path.name}", checksum=False)

        if self.uri is not None:
            # The weights are logged even if the bucket cannot be referred to.
            sink.attempt(f"a reference to {self.uri}", refer)
        self.run.log_artifact(artifact)

"""The test over a stream's experiences: accuracy matrix and Avalanche's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from avalanche.models.utils import avalanche_model_adaptation

from avalanche_dgm.lightning import internals, trainers
from avalanche_dgm.lightning.evaluation import StrategyView
from avalanche_dgm.lightning.limits import apply_limit
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks
from avalanche_dgm.methods.abilities import Routing
from avalanche_dgm.metrics import AccuracyMatrix
from avalanche_dgm.plugins.samples import classes_of, with_class_labels

if TYPE_CHECKING:
    from avalanche_dgm.lightning.data import StreamDataModule
    from avalanche_dgm.lightning.module import MethodModule


class StreamTest:
    """Tests a module on test experiences, each a loader of one ``trainer.test``.

    Args:
        trainer: The Trainer, after its processes were started.
        data: The stream's data module.
        matrix: The accuracy matrix to update.
        row: Index of the last learned experience.
        view: The strategy stand-in for Avalanche's metrics.
        experiences: Indices of the test experiences.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        data: StreamDataModule,
        *,
        matrix: AccuracyMatrix,
        row: int,
        view: StrategyView,
        experiences: Sequence[int],
    ) -> None:
        self._trainer, self._ranks = trainer, Ranks.of(trainer)
        self._matrix, self._row, self._view = matrix, row, view
        self._positions = list(experiences)
        stream = data.benchmark.test_stream
        self._experiences = [stream[j] for j in self._positions]
        self._data = data
        loaders = [data.test_batches(j, ranks=self._ranks, whole=True) for j in self._positions]
        self.loaders = apply_limit(loaders, trainer.limit_test_batches)
        self._key: str | None = None
        self._current: int | None = None

    def run(self, module: MethodModule) -> None:
        """Tests a module and restores the training modes of its submodules."""
        view = self._view
        # Before Lightning does it, as a metric may use the model before the first batch.
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        view.is_training, view.current_eval_stream = False, self._experiences
        view.fire("before_eval")
        with module.checking_overrides(), internals.replaced(module, stream_test=self):
            trainers.test(self._trainer, module, self.loaders)
        self._end_experience()
        view.fire("after_eval")
        view.current_eval_stream, view.experience = [], None
        for part, mode in modes:
            part.training = mode

    def _begin_experience(self, module: MethodModule, index: int) -> None:
        experience, view = self._experiences[index], self._view
        view.begin(experience, training=False)
        view.dataloader = self.loaders[index]
        avalanche_model_adaptation(module.model, with_class_labels(experience))
        module.model.to(self._trainer.strategy.root_device)
        method = module.method
        if isinstance(method, Routing):
            key = self._data.test_task_of(experience)
            self._key = method.test_key(key, classes_of(experience))
        view.fire("before_eval_exp")
        self._current = index

    def _end_experience(self) -> None:
        if self._current is not None:
            self._view.fire("after_eval_exp")
        self._current = None

    def step(self, module: MethodModule, batch: Any, batch_idx: int, index: int) -> None:
        """Predicts this process's shard of a batch and updates the metrics."""
        if self._current != index:
            self._end_experience()
            self._begin_experience(module, index)
        ranks, view, loader = self._ranks, self._view, self.loaders[index]
        n = loader.sizes[batch_idx]
        images, labels, tasks = loader.shard(batch, n)
        view.set_batch(batch, n, shard=not loader.whole)
        view.fire("before_eval_iteration")
        view.fire("before_eval_forward")
        logits = module.method.predict(images, tasks, key=self._key)
        view.set_outputs(logits, n)
        view.fire("after_eval_forward")
        if view.mb_output is not None:
            view.loss = module.criterion(view.mb_output, view.mb_y)
        view.fire("after_eval_iteration")
        if ranks.can_shard(n) or ranks.rank == 0:
            column = self._positions[index]
            self._matrix.update(logits, labels, step=self._row, experience=column)

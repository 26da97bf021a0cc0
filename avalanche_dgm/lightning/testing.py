"""The test over a stream's experiences: accuracy matrix and Avalanche's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avalanche.models.utils import avalanche_model_adaptation

from avalanche_dgm.lightning import internals, trainers
from avalanche_dgm.lightning.limits import apply_limit
from avalanche_dgm.lightning.ranks import Ranks
from avalanche_dgm.methods.abilities import Routing
from avalanche_dgm.modules import evaluating
from avalanche_dgm.plugins.samples import classes_of, with_class_labels

if TYPE_CHECKING:
    from avalanche_dgm.lightning.stream_run import StreamRun


@dataclass
class StreamTest:
    """Tests the module of a run on test experiences, each a loader of one ``trainer.test``.

    Attributes:
        run: The run over the stream.
        row: Index of the last learned experience, the row of the accuracy matrix to update.
        positions: Indices of the test experiences.
    """

    run: StreamRun
    row: int
    positions: Sequence[int]

    def test(self) -> None:
        """Tests the module."""
        run, view, trainer = self.run, self.run.view, self.run.trainer
        self._ranks = Ranks.of(trainer)
        self._experiences = [run.benchmark.test_stream[j] for j in self.positions]
        loaders = [run.data.test_batches(j, ranks=self._ranks, whole=True) for j in self.positions]
        self._loaders = apply_limit(loaders, trainer.limit_test_batches)
        self._key: str | None = None
        self._current: int | None = None
        view.is_training, view.current_eval_stream = False, self._experiences
        # Before Lightning does it, as a metric may use the model before the first batch.
        with evaluating(run.module):
            view.fire("before_eval")
            with run.module.checking_overrides(), internals.replaced(run.module, stream_test=self):
                trainers.test(trainer, run.module, self._loaders)
            self._end_experience()
            view.fire("after_eval")
        view.current_eval_stream, view.experience = [], None

    def _begin_experience(self, index: int) -> None:
        run, experience, view = self.run, self._experiences[index], self.run.view
        view.begin(experience, training=False)
        view.dataloader = self._loaders[index]
        avalanche_model_adaptation(run.module.model, with_class_labels(experience))
        run.module.model.to(run.device)
        if isinstance(run.method, Routing):
            key = run.data.test_task_of(experience)
            self._key = run.method.test_key(key, classes_of(experience))
        view.fire("before_eval_exp")
        self._current = index

    def _end_experience(self) -> None:
        if self._current is not None:
            self.run.view.fire("after_eval_exp")
        self._current = None

    def step(self, batch: Any, batch_idx: int, index: int) -> None:
        """Predicts this process's shard of a batch and updates the metrics."""
        if self._current != index:
            self._end_experience()
            self._begin_experience(index)
        run, ranks, view, loader = self.run, self._ranks, self.run.view, self._loaders[index]
        n = loader.sizes[batch_idx]
        images, labels, tasks = loader.shard(batch, n)
        view.set_batch(batch, n, shard=not loader.whole)
        view.fire("before_eval_iteration")
        view.fire("before_eval_forward")
        logits = run.method.predict(images, tasks, key=self._key)
        view.set_outputs(logits, n)
        view.fire("after_eval_forward")
        if view.mb_output is not None:
            view.loss = run.module.criterion(view.mb_output, view.mb_y)
        view.fire("after_eval_iteration")
        if ranks.can_shard(n) or ranks.rank == 0:
            run.matrix.update(logits, labels, step=self.row, experience=self.positions[index])

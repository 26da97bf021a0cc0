"""What every method promises of every benchmark that Avalanche documents, on both backends."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from avalanche.benchmarks import benchmark_with_validation_stream, dataset_benchmark
from avalanche.benchmarks.scenarios.dataset_scenario import benchmark_from_datasets
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.benchmarks.scenarios.supervised import (
    class_incremental_benchmark,
    new_instances_benchmark,
)
from avalanche.benchmarks.scenarios.task_aware import (
    task_incremental_benchmark,
    with_task_labels,
)
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.benchmarks.utils.data import AvalancheDataset
from avalanche.benchmarks.utils.data_attribute import TaskLabels
from avalanche.benchmarks.utils.flat_data import ConstantSequence
from avalanche.evaluation import metrics
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.evaluation.metrics.cumulative_accuracies import CumulativeAccuracyPluginMetric
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from backends import MAIN, made
from driver import digits
from torch import nn
from torch.utils.data import TensorDataset

from avalanche_dgm import (
    DGDMNPlugin,
    DGRPlugin,
    LatentReplayPlugin,
    PseudoRehearsalPlugin,
    continual_metrics,
    sklearn_digits,
)
from avalanche_dgm.errors import ConfigError, LabelError, UnknownTaskError
from avalanche_dgm.lightning import DGDMNModule, DGRModule, fit_stream, run_on_trainer
from avalanche_dgm.methods.abilities import Inspectable
from avalanche_dgm.plugins.experiences import automatic, train_rule

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}


def data_of(*classes, skip=0, per_class=16):
    """Samples (x, y) and nothing else."""
    found = digits(*classes, skip=skip, per_class=per_class)
    dataset = TensorDataset(found.images, found.labels)
    dataset.targets = found.labels.tolist()
    return as_classification_dataset(dataset)


def pair(*classes):
    return data_of(*classes), data_of(*classes, skip=16, per_class=8)


def class_incremental():
    train, test = pair(0, 1, 2, 3)
    return class_incremental_benchmark(
        {"train": train, "test": test}, num_experiences=2, class_order=[0, 1, 2, 3]
    )


def online(*, boundaries, size=16):
    whole = class_incremental()
    parts = split_online_stream(whole.train_stream, size, seed=0, access_task_boundaries=boundaries)
    return SimpleNamespace(train_stream=parts, test_stream=whole.test_stream)


def from_datasets():
    train = [data_of(0, 1), data_of(2, 3)]
    return benchmark_from_datasets(train=train, test=[pair(0, 1, 2, 3)[1]])


def without_targets():
    """Data sets that do not say which classes they hold."""
    parts = [TensorDataset(d.images, d.labels) for d in (digits(0, 1), digits(2, 3))]
    sets = [AvalancheDataset([part]).subset(range(0, 120, 5)) for part in parts]
    return benchmark_from_datasets(train=sets, test=sets)


BUILDERS = {
    "class-incremental": class_incremental,
    "validation": lambda: benchmark_with_validation_stream(class_incremental(), 0.25, seed=0),
    "new-instances": lambda: new_instances_benchmark(*pair(0, 1, 2, 3), num_experiences=2, seed=0),
    "datasets": from_datasets,
    "task-incremental": lambda: task_incremental_benchmark(class_incremental()),
    "visible-boundaries": lambda: online(boundaries=True),
    "hidden-boundaries": lambda: online(boundaries=False),
    "no-targets": without_targets,
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)
    )


def naive(model, plugin, epochs=1, **more):
    more.setdefault("evaluator", EvaluationPlugin(accuracy_metrics(experience=True), loggers=[]))
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        train_mb_size=8,
        train_epochs=epochs,
        eval_mb_size=50,
        plugins=[plugin],
        **more,
    )


def in_avalanche(name, stream, model):
    plugin = made(name, 0, model, seed=0)
    strategy = naive(model, plugin)
    for experience in stream.train_stream:
        strategy.train(experience, eval_streams=[], shuffle=False)
    found = strategy.eval(stream.test_stream)
    return plugin.method, [v for k, v in found.items() if "Top1_Acc_Exp" in k]


def on_trainer(name, stream, model):
    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=0.05)

    module = made(name, 1, model, optimizer=sgd, seed=0)
    result = fit_stream(module, stream, trainer=QUIET, epochs=1, batch_size=8, shuffle=False)
    return module.method, result.accuracy[-1].tolist()


def strategy_on_trainer(name, stream, model):
    plugin = made(name, 0, model, seed=0)
    found = run_on_trainer(naive(model, plugin), stream, trainer=QUIET, shuffle=False)[-1]
    return plugin.method, [v for k, v in found.items() if "Top1_Acc_Exp" in k]


RUNS = {"plugin": in_avalanche, "module": on_trainer, "run_on_trainer": strategy_on_trainer}
#: What is run in the fast suite; the rest is slow.
FAST = {
    ("plugin", "dgr"): set(BUILDERS),
    ("module", "latent"): set(BUILDERS),
    ("run_on_trainer", "pseudo-rehearsal"): set(BUILDERS),
    ("plugin", "dgdmn"): {"new-instances", "hidden-boundaries"},
    ("module", "dgdmn"): {"visible-boundaries", "hidden-boundaries"},
    ("plugin", "dynamic-memory"): {"class-incremental", "hidden-boundaries"},
}
CASES = [
    pytest.param(
        run,
        name,
        kind,
        id=f"{run}-{name}-{kind}",
        marks=[] if kind in FAST.get((run, name), ()) else pytest.mark.slow,
    )
    for run in RUNS
    for name in MAIN
    for kind in BUILDERS
]


@pytest.mark.parametrize(("run", "name", "kind"), CASES)
def test_every_method_learns_every_stream(run, name, kind):
    stream, model = BUILDERS[kind](), network()
    before = [p.clone() for p in model.parameters()]
    needs = made(name, 0, model).method.needs.tasks
    if kind == "hidden-boundaries" and needs:
        with pytest.raises(ConfigError, match="access_task_boundaries"):
            RUNS[run](name, stream, model)
        same = zip(before, model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in same)
        return
    if kind == "new-instances" and needs and "dgdmn" not in name:
        with pytest.raises(LabelError, match="learned before"):
            RUNS[run](name, stream, model)
        return
    method, accuracies = RUNS[run](name, stream, model)
    assert len(accuracies) == (1 if kind in ("new-instances", "datasets") else 2)
    n = {"hidden-boundaries": 4}.get(kind, 2)
    assert method.experiences == n
    if isinstance(method, Inspectable):
        with suppress(UnknownTaskError, NotImplementedError):
            assert set(method.sample(64).labels.tolist()) <= {0, 1, 2, 3}


@pytest.mark.parametrize("run", ["plugin", "module"])
@pytest.mark.parametrize(
    "name", ["dgr", "latent", *(pytest.param(n, marks=pytest.mark.slow) for n in MAIN)]
)
def test_the_same_data_through_the_old_builders(run, name):
    """What is learned of samples (x, y) is what is learned of the same with task label 0."""
    train, test = [data_of(0, 1), data_of(2, 3)], [data_of(0, 1, 2, 3)]
    new = benchmark_from_datasets(train=train, test=test)
    old = dataset_benchmark(
        [AvalancheDataset([d]) for d in train], [AvalancheDataset([d]) for d in test]
    )
    assert len(old.train_stream[0].dataset[0]) == len(new.train_stream[0].dataset[0]) + 1
    found = []
    for stream in (new, old):
        model = network()
        method, accuracies = RUNS[run](name, stream, model)
        found.append((accuracies, [*model.state_dict().values()], method.stats.read().histogram))
    (mine, one, counts), (theirs, two, others) = found
    assert mine == theirs
    assert counts == others
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("trained", [slice(0, 2), slice(1, 3)])
@pytest.mark.parametrize(
    "name", ["dgr", "dgdmn", *(pytest.param(n, marks=pytest.mark.slow) for n in MAIN)]
)
def test_parts_that_are_left_out(name, trained):
    """An experience ends with its last part or with the start of the next experience."""
    model = network()
    plugin = made(name, 0, model, seed=0)
    strategy = naive(model, plugin)
    parts = list(online(boundaries=True, size=8).train_stream)
    for start in range(0, len(parts), 4):
        for part in parts[start : start + 4][trained]:
            strategy.train(part, eval_streams=[])
    assert plugin.method.experiences == 1
    assert set(plugin._data.labels.tolist()) == {2, 3}


def former(*parts):
    """A benchmark of one of Avalanche's former builders: its slices are streams of their own."""
    sets = [AvalancheDataset([data_of(*classes)]) for classes in parts]
    return dataset_benchmark(sets, sets)


@pytest.mark.parametrize(
    "parts", [[(0, 1)] * 3, [(0, 1), (2, 3), (0, 2)], [(0, 1), (2, 3), (4, 5)]]
)
def test_the_task_does_not_depend_on_the_slice(parts):
    stream = former(*parts)
    whole = [train_rule(automatic, e)(e) for e in stream.train_stream]
    assert len(set(whole)) == 3
    for start, stop in [(0, 1), (1, 2), (2, 3), (1, 3)]:
        found = [train_rule(automatic, e)(e) for e in stream.train_stream[start:stop]]
        assert found == whole[start:stop]


def test_evaluations_of_slices_have_their_places_in_the_whole_stream():
    found = []
    for sliced in (False, True):
        stream, model = former((0, 1), (2, 3), (0, 2)), network()
        evaluator = EvaluationPlugin(continual_metrics(baseline=None), loggers=[])
        strategy = naive(model, PseudoRehearsalPlugin(seed=0), evaluator=evaluator)
        for i, experience in enumerate(stream.train_stream):
            strategy.train(experience, eval_streams=[])
            # Experiences of a slice of a list belong to the whole stream.
            tests = stream.test_stream[: i + 1] if sliced else list(stream.test_stream)[: i + 1]
            result = strategy.eval(tests)
        found.append(result)
    assert found[0] == found[1]


def accuracy(plugin, stream, *, epochs=20):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    strategy = naive(
        model,
        plugin,
        epochs,
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
    )
    strategy.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for experience in stream.train_stream:
        strategy.train(experience, eval_streams=[])
    (found,) = strategy.eval(stream.test_stream).values()
    return found


@pytest.mark.slow
def test_streams_without_boundaries_are_remembered():
    """Five pairs of digits in parts of 48: nothing but the last pair is known without replay."""

    def stream():
        train, test = data_of(*range(10), per_class=100), data_of(*range(10), skip=100)
        whole = class_incremental_benchmark(
            {"train": train, "test": test}, num_experiences=5, class_order=list(range(10))
        )
        parts = split_online_stream(whole.train_stream, 48, seed=0)
        return SimpleNamespace(train_stream=parts, test_stream=whole.test_stream)

    without = accuracy(PseudoRehearsalPlugin(seed=0), stream())
    assert without < 0.4
    dgr = DGRPlugin(seed=0, generator_steps=40)
    assert accuracy(dgr, stream()) > without + 0.2
    assert len(dgr.method.ltm.tasks) == 1
    assert len(dgr.method.ltm.generator.classes) == 10
    assert dgr.method.ltm.generator.density.seen.tolist() == [100] * 10
    latent = LatentReplayPlugin(seed=0, layer="2", freeze_after=4)
    assert accuracy(latent, stream()) > without + 0.2


def keys_of(stream, plugin):
    strategy = naive(network(), plugin)
    for experience in stream.train_stream:
        strategy.train(experience, eval_streams=[])
    trained = [memory.key for memory in plugin.method.dual.sttms()]
    return trained, [plugin.test_task_of(e) for e in stream.test_stream]


TINY = {"generator_steps": 2, "hidden": (8,), "latent": 2, "stm_size": 5, "seed": 0}


def domains(*, lacking, task_labels=False, n=3):
    """Domains with the same classes; the last one's training set lacks a class, if asked."""
    train = [data_of(0, 1, 2) for _ in range(n - 1)] + [
        data_of(0, 1) if lacking else data_of(0, 1, 2)
    ]
    stream = benchmark_from_datasets(train=train, test=[data_of(0, 1, 2) for _ in range(n)])
    return task_incremental_benchmark(stream) if task_labels else stream


@pytest.mark.parametrize("lacking", [True, False])
@pytest.mark.parametrize("task_labels", [True, False])
def test_a_task_has_one_name_in_training_and_test(lacking, task_labels):
    stream = domains(lacking=lacking, task_labels=task_labels)
    trained, tested = keys_of(stream, DGDMNPlugin(**TINY))
    assert trained == tested
    assert len(set(trained)) == 3
    module = DGDMNModule(network(), **TINY)
    fit_stream(module, stream, trainer=QUIET, test="none", batch_size=8)
    assert [memory.key for memory in module.method.dual.sttms()] == trained


def test_a_test_of_everything_has_the_name_of_no_position():
    stream = new_instances_benchmark(*pair(0, 1, 2, 3), num_experiences=2, seed=0)
    trained, tested = keys_of(stream, DGDMNPlugin(**TINY))
    assert trained == ["#0", "#1"]
    assert tested == ["0-3"]


def test_parts_of_experiences_keep_the_names_of_their_tasks():
    stream = sklearn_digits(n_experiences=2, n_train_per_class=8)
    split = benchmark_with_validation_stream(stream, validation_size=0.5, seed=0)
    names = ["classes 0, 1, 2, 3, 4", "classes 5, 6, 7, 8, 9"]
    plugin = DGRPlugin()
    for part in (split.train_stream, split.valid_stream, split.test_stream):
        assert [plugin.oracle(experience) for experience in part] == names


class Numbered(TensorDataset):
    """Samples (x, y, position): the last column is no task label."""

    def __init__(self, data):
        super().__init__(data.images, data.labels, torch.arange(len(data)))
        self.targets = data.labels.tolist()


def doubled(samples):
    """A data set's own collate_fn: images of other size and intensities than the samples'."""
    images, labels, *more = torch.utils.data.default_collate(samples)
    return [images.repeat_interleave(2, dim=-1) / 2, labels, *more]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", ["dgr", "latent"])
@pytest.mark.parametrize("labelled", [True, False])
def test_further_columns_and_a_collate_fn(run, name, labelled):
    """The memory sees what the model is trained on."""
    sets = [Numbered(digits(*classes, per_class=12)) for classes in ((0, 1), (2, 3))]
    labels = [TaskLabels(ConstantSequence(5, 24))] if labelled else []
    # Avalanche trains without a data set's collate_fn where a stream has no task labels.
    collated = labelled or run == "module"
    sets = [
        AvalancheDataset([d], data_attributes=labels, collate_fn=doubled if collated else None)
        for d in sets
    ]
    stream = benchmark_from_datasets(train=sets, test=sets)
    stream = with_task_labels(stream) if labelled else stream
    model = network()
    if collated:
        model[1] = nn.Linear(128, 32)
    method, _ = RUNS[run](name, stream, model)
    replay = method.sample(40)
    assert set(replay.tasks.tolist()) == {5 if labelled else 0}
    assert set(replay.labels.tolist()) == {0, 1, 2, 3}
    if name == "dgr":
        assert replay.images.shape[1:] == (1, 8, 16 if collated else 8)


def test_a_part_of_a_run_cannot_be_saved(tmp_path):
    module = DGRModule(network(), generator_steps=2)
    with pytest.raises(ConfigError, match="parts of experiences"):
        fit_stream(module, online(boundaries=True), trainer=QUIET, checkpoint_dir=tmp_path)
    assert module.method.experiences == 0
    assert not list(tmp_path.iterdir())


def every_metric():
    """What Avalanche ships but for forward transfer, which needs a test before all training."""
    both = {"experience": True, "stream": True}
    some = {"minibatch": True, "epoch": True, **both}
    most = {**some, "epoch_running": True}
    return EvaluationPlugin(
        metrics.accuracy_metrics(**most, trained_experience=True),
        metrics.topk_acc_metrics(top_k=2, **most, trained_experience=True),
        metrics.loss_metrics(**most),
        metrics.class_accuracy_metrics(**most),
        metrics.forgetting_metrics(**both),
        metrics.bwt_metrics(**both),
        metrics.confusion_matrix_metrics(stream=True),
        metrics.timing_metrics(**most),
        metrics.cpu_usage_metrics(**most),
        metrics.disk_usage_metrics(**some),
        metrics.MAC_metrics(minibatch=True, epoch=True, experience=True),
        metrics.labels_repartition_metrics(on_train=True, on_eval=True),
        metrics.images_samples_metrics(on_train=True, on_eval=True),
        metrics.amca_metrics(),
        metrics.mean_scores_metrics(),
        metrics.accuracy_matrix_metrics(),
        metrics.WeightCheckpoint(),
        CumulativeAccuracyPluginMetric(),
        loggers=[],
    )


@pytest.mark.parametrize("task_labels", [pytest.param(False, marks=pytest.mark.slow), True])
def test_every_metric_of_avalanche_on_a_stream_of_ours(task_labels):
    stream = sklearn_digits(
        n_experiences=2, n_train_per_class=6, fraction=0.3, task_labels=task_labels
    )
    found = []
    for run in RUNS:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        evaluator = every_metric()
        plugin = PseudoRehearsalPlugin(seed=0)
        if run == "module":
            module = made("pseudo-rehearsal", 1, model, seed=0)
            more = {"epochs": 1, "batch_size": 8, "evaluator": evaluator}
            result = fit_stream(module, stream, trainer=QUIET, **more).metrics[-1]
        elif run == "plugin":
            strategy = naive(model, plugin, evaluator=evaluator)
            for experience in stream.train_stream:
                strategy.train(experience, eval_streams=[])
                result = strategy.eval(stream.test_stream)
        else:
            strategy = naive(model, plugin, evaluator=evaluator)
            result = run_on_trainer(strategy, stream, trainer=QUIET)[-1]
        found.append(set(result))
        matrix = result["ConfusionMatrix_Stream/eval_phase/test_stream"]
        matrix = matrix.best_supported_value(torch.Tensor)
        assert matrix.sum() == sum(len(e.dataset) for e in stream.test_stream)
    assert found[0] == found[1] == found[2]


def test_forward_transfer_is_refused_where_nothing_is_tested_before():
    evaluator = EvaluationPlugin(metrics.forward_transfer_metrics(stream=True), loggers=[])
    module = made("pseudo-rehearsal", 1, network(), seed=0)
    with pytest.raises(ConfigError, match="Forward transfer"):
        fit_stream(module, class_incremental(), trainer=QUIET, evaluator=evaluator)
    assert module.method.experiences == 0

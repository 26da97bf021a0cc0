"""Learning a stream with a Trainer: what users do with it, and what they do wrong."""

import copy
import types
from types import SimpleNamespace

import pytest
import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models.dynamic_modules import MultiTaskModule
from avalanche.training.plugins import EvaluationPlugin
from backends import DUAL, SMALL
from torch import nn

from avalanche_dgm import sklearn_digits
from avalanche_dgm.errors import ConfigError, LabelError, UnsupportedModelError
from avalanche_dgm.lightning import (
    DGDMNModule,
    DGRModule,
    NaiveModule,
    StreamDataModule,
    fit_stream,
)
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.optimizers import OptimizerSpec

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def benchmark():
    return sklearn_digits(n_experiences=5, seed=0)


@pytest.fixture(scope="module")
def short(benchmark):
    return SimpleNamespace(
        train_stream=list(benchmark.train_stream)[:3], test_stream=list(benchmark.test_stream)
    )


def mlp(hidden=40, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


class Lines(pl.loggers.Logger):
    """Everything that is logged, with its step."""

    def __init__(self):
        super().__init__()
        self.lines = []

    name = version = "lines"

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.lines.append((step, dict(metrics)))


class Epochs(pl.Callback):
    def __init__(self):
        self.seen = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.seen.append((pl_module.stage_name, trainer.current_epoch, trainer.global_step))


@pytest.mark.slow
def test_it_remembers_what_a_plain_network_forgets(benchmark):
    """Five experiences of two digits, nothing told at test time.

    `test_learning` has it on Avalanche's loop; by `test_backend_contract` both end equal.
    """
    accuracies = {}
    for kind, hyper in ((DGRModule, {"generator_steps": 200}), (NaiveModule, {})):
        module = kind(mlp(200), seed=0, **hyper)
        trainer = {**QUIET, "max_epochs": 15}
        accuracies[kind] = fit_stream(module, benchmark, trainer=trainer, batch_size=32)
    assert accuracies[DGRModule].average_accuracy > 0.75
    assert accuracies[NaiveModule].average_accuracy < 0.25
    assert accuracies[NaiveModule].continual["forgetting"] > 0.9
    assert accuracies[DGRModule].accuracy.shape == (5, 5)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"precision": "bf16-mixed"}, marks=pytest.mark.slow),
        {"accumulate_grad_batches": 2, "gradient_clip_val": 5.0},
    ],
    ids=lambda s: next(iter(s)),
)
def test_it_learns_with_the_trainer_s_features(benchmark, settings):
    module = DGDMNModule(mlp(200), seed=0, generator_steps=120, learner_steps=300)
    batch = 16 if "accumulate_grad_batches" in settings else 32
    trainer = {**QUIET, "max_epochs": 10, **settings}
    result = fit_stream(module, benchmark, trainer=trainer, batch_size=batch, test="seen")
    assert result.average_accuracy > 0.6, "a plain network ends below .25"
    assert result.accuracy[0, 1:].isnan().all()


def test_clipping_reaches_every_phase(short):
    """With gradients limited to nearly nothing, SGD leaves every network where it was."""
    start = None
    spec = OptimizerSpec("sgd", 1e-2)
    module = DGRModule(mlp(), seed=0, optimizer=spec, generator_optimizer=spec, **SMALL)
    start = copy.deepcopy(module.model.state_dict())
    fit_stream(module, short, trainer={**QUIET, "gradient_clip_val": 1e-9}, test="none")
    for key, value in module.model.state_dict().items():
        torch.testing.assert_close(value, start[key], atol=1e-7, rtol=0)
    generator, fresh = module.method.ltm.generator, DGRModule(mlp(), seed=0, **SMALL)
    fresh.method.begin(StreamDataModule(short).experience_data(0))
    for a, b in zip(generator.parameters(), fresh.method.ltm.generator.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=0)


def test_steps_go_on_and_epochs_begin_anew(short):
    logger, epochs = Lines(), Epochs()
    module = DGDMNModule(mlp(), seed=0, **DUAL)
    trainer = {**QUIET, "logger": logger, "log_every_n_steps": 5, "callbacks": epochs}
    fit_stream(module, short, trainer=trainer, epochs=2, batch_size=64)
    steps = [step for step, _ in logger.lines]
    assert steps == sorted(steps)
    assert steps[-1] > 80
    values = [name for _, line in logger.lines for name in line]
    for name in (
        "train/loss",
        "train/accuracy",
        "generator/short-term/loss",
        "sleep/generator/loss",
        "sleep/learner/loss",
        "experience",
        "stream/average_accuracy",
        "accuracy/experience_004",
    ):
        assert name in values, name
    experiences = [line["experience"] for _, line in logger.lines if "experience" in line]
    assert experiences == [1, 2, 3]
    learning = [e for e in epochs.seen if e[0].endswith("learning")]
    assert [epoch for _, epoch, _ in learning] == [0, 1] * 3
    assert learning[0][0] == "experience 1/3 (classes 0, 1): learning"
    sleep = "sleep: consolidating tasks classes 0, 1; classes 2, 3"
    assert any(sleep in name for name, _, _ in epochs.seen)
    counts = [step for _, _, step in epochs.seen]
    assert counts == sorted(set(counts))


def test_early_stopping_begins_anew_in_each_experience(short):
    """Its patience would be used up for ever otherwise; phases are none of its business."""
    stop = pl.callbacks.EarlyStopping("train/accuracy", mode="max", patience=0, min_delta=2.0)
    epochs = Epochs()
    module = DGRModule(mlp(), seed=0, **SMALL)
    fit_stream(module, short, trainer=QUIET, callbacks=[stop, epochs], epochs=6)
    learning = [epoch for name, epoch, _ in epochs.seen if name.endswith("learning")]
    assert learning == [0, 1] * 3
    assert stop.stopped_epoch == 1


def test_the_best_checkpoint_of_each_experience(short, tmp_path):
    save = pl.callbacks.ModelCheckpoint(tmp_path, monitor="train/loss", filename="{epoch}-{step}")
    module = DGRModule(mlp(), seed=0, **SMALL)
    result = fit_stream(module, short, trainer=QUIET, callbacks=[save], epochs=2)
    assert len(set(result.best_checkpoints)) == 3
    assert {str(path) for path in tmp_path.iterdir()} == set(result.best_checkpoints)
    loaded = DGRModule.load_from_checkpoint(save.best_model_path, model=mlp())
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(loaded(images), module(images))


def test_validation_stream(short):
    held_out = SimpleNamespace(**vars(short), valid_stream=short.test_stream[:3])
    logger = Lines()
    stop = pl.callbacks.EarlyStopping("val/accuracy", mode="max", patience=50)
    module = DGDMNModule(mlp(), seed=0, **DUAL)
    trainer = {**QUIET, "logger": logger}
    fit_stream(module, held_out, trainer=trainer, callbacks=[stop], epochs=20, batch_size=32)
    found = [line["val/accuracy"] for _, line in logger.lines if "val/accuracy" in line]
    assert len(found) == 60
    assert found[-1] > 0.8


def test_a_trainer_of_the_user_s(short):
    trainer = pl.Trainer(max_epochs=3, logger=False, enable_checkpointing=False, **QUIET)
    epochs = Epochs()
    module = NaiveModule(mlp())
    fit_stream(module, short, trainer=trainer, callbacks=[epochs])
    assert len(epochs.seen) == 9
    other = NaiveModule(mlp())
    fit_stream(other, short, trainer={**QUIET, "max_epochs": 3})
    assert all(
        torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True)
    )


def test_a_trainer_serves_several_streams(short):
    """A phase is one epoch, and callbacks of one stream are none of the next."""
    trainer = pl.Trainer(max_epochs=2, logger=False, enable_checkpointing=False, **QUIET)
    before, seen = list(trainer.callbacks), []
    for _ in range(2):
        epochs, module = Epochs(), DGRModule(mlp(), seed=0, **SMALL)
        result = fit_stream(module, short, trainer=trainer, callbacks=[epochs], batch_size=32)
        seen.append((result.iterations, len(epochs.seen), [*module.model.parameters()]))
    assert seen[0][:2] == seen[1][:2]
    assert all(torch.equal(a, b) for a, b in zip(seen[0][2], seen[1][2], strict=True))
    assert (trainer.max_epochs, trainer.callbacks) == (2, before)


def test_a_trained_module_with_a_plain_trainer(short, tmp_path):
    module = DGDMNModule(mlp(), seed=0, **DUAL)
    result = fit_stream(module, short, trainer=QUIET, epochs=10, batch_size=32)
    data = StreamDataModule(short)
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, **QUIET)
    tested = trainer.test(module, dataloaders=data.test_dataloader(), verbose=False)
    for j, values in enumerate(tested):
        accuracy = float(result.accuracy[2, j])
        assert values[f"test/accuracy/dataloader_idx_{j}"] == pytest.approx(accuracy)
    logits = torch.cat(trainer.predict(module, dataloaders=[data.test_batches(0)]))
    assert torch.equal(logits, module(data.test_batches(0).data.images))
    trainer.save_checkpoint(tmp_path / "module.ckpt")
    loaded = DGDMNModule.load_from_checkpoint(tmp_path / "module.ckpt", model=mlp())
    assert loaded.hparams["generator_steps"] == DUAL["generator_steps"]
    assert torch.equal(loaded(data.test_batches(0).data.images), logits)
    assert torch.equal(loaded.method.sample(6).images, module.method.sample(6).images)


def test_images_read_as_needed_are_the_same_batches(short):
    found = []
    for in_memory in (True, False):
        module = DGRModule(mlp(), seed=0, **SMALL)
        result = fit_stream(module, short, trainer=QUIET, batch_size=32, in_memory=in_memory)
        found.append([*module.model.parameters(), result.accuracy])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_single_experience(short):
    """torchmetrics returns its one accuracy as a scalar."""
    stream = SimpleNamespace(train_stream=short.train_stream[:1], test_stream=short.test_stream[:1])
    result = fit_stream(NaiveModule(mlp(), seed=0), stream, trainer=QUIET)
    assert result.accuracy.shape == (1, 1)
    assert result.average_accuracy == result.accuracy.item()


def test_two_streams_one_after_the_other(benchmark):
    """A module goes on with what it has."""
    parts = [
        SimpleNamespace(train_stream=part, test_stream=list(benchmark.test_stream))
        for part in (list(benchmark.train_stream)[:2], list(benchmark.train_stream)[2:3])
    ]
    module = DGRModule(mlp(), seed=0, **SMALL)
    for part in parts:
        fit_stream(module, part, trainer=QUIET)
    assert module.method.experiences == 3
    assert {int(c) for c in module.method.sample(60).labels} == set(range(6))


def test_an_error_keeps_what_was_learned(short):
    broken = copy.copy(short.train_stream[1])
    stream = SimpleNamespace(
        train_stream=[short.train_stream[0], broken], test_stream=short.test_stream
    )
    torch.manual_seed(0)
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    module = DGRModule(narrow, seed=0, **SMALL)
    with pytest.raises(LabelError, match="2 outputs"):
        fit_stream(module, stream, trainer=QUIET)
    assert module.method.experiences == 1
    assert {int(c) for c in module.method.sample(20).labels} == {0, 1}
    images = torch.rand(3, 1, 8, 8)
    assert module(images).shape == (3, 2)


def test_what_cannot_work_is_said_before_anything_is_trained(short, tmp_path):
    module = DGRModule(mlp(), seed=0, **SMALL)
    before = copy.deepcopy(module.model.state_dict())
    cases = [
        ({"epochs": 0}, "epochs=0"),
        ({"test": "some"}, "test='some'"),
        ({"save_every": 0}, "save_every=0"),
        ({"resume": True}, "checkpoint_dir"),
        ({"evaluator": accuracy_metrics(stream=True)}, "EvaluationPlugin"),
        ({"trainer": {**QUIET, "max_steps": 10}}, "max_epochs"),
        ({"trainer": {**QUIET, "no_such": 1}}, "no_such"),
        ({"trainer": 3}, f"{pl.__name__}.Trainer"),
        ({"batch_size": 0}, "batch_size=0"),
    ]
    for options, message in cases:
        with pytest.raises(ConfigError, match=message):
            fit_stream(module, short, **{"trainer": QUIET, **options})
    with pytest.raises(ConfigError, match="StreamDataModule; pass them to it"):
        fit_stream(module, StreamDataModule(short), trainer=QUIET, batch_size=3)
    with pytest.raises(ConfigError, match="run_on_trainer"):
        fit_stream(mlp(), short, trainer=QUIET)
    with pytest.raises(ConfigError, match="no train_stream"):
        fit_stream(module, object(), trainer=QUIET)
    with pytest.raises(UnsupportedModelError, match="not a torch"):
        DGRModule(lambda x: x)
    with pytest.raises(ConfigError, match="generator_step"):
        DGRModule(mlp(), generator_step=3)
    assert all(torch.equal(before[k], v) for k, v in module.model.state_dict().items())
    assert not module.method.experiences


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "64-true"}, "bf16-mixed"),
        ({"precision": "bf16-true"}, "32-true"),
        ({"devices": 2, "strategy": "fsdp"}, "fsdp|FSDP"),
    ],
)
def test_trainers_that_change_or_divide_the_model(short, arguments, message):
    with pytest.raises(ConfigError, match=message):
        fit_stream(NaiveModule(mlp()), short, trainer={**QUIET, **arguments})


def test_heads_on_several_devices_need_a_word(short):
    class Heads(MultiTaskModule):
        def forward(self, x, task_labels):
            return x

    trainer = {**QUIET, "devices": 2, "strategy": "ddp"}
    with pytest.raises(ConfigError, match="ddp_find_unused_parameters_true"):
        fit_stream(NaiveModule(Heads()), short, trainer=trainer)


def test_an_optimiser_that_is_none(short):
    module = NaiveModule(mlp(), optimizer=lambda parameters: "adam")
    with pytest.raises(ConfigError, match=r"torch\.optim\.Optimizer"):
        fit_stream(module, short, trainer=QUIET)


def test_configure_optimizers_of_the_user(short):
    """It would replace the optimisers of phases, and not be in checkpoints."""

    def made(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    derived = type("Own", (NaiveModule,), {"configure_optimizers": made})(mlp())
    patched = NaiveModule(mlp())
    patched.configure_optimizers = types.MethodType(made, patched)  # As LightningCLI does.
    for module in (derived, patched):
        with pytest.raises(ConfigError, match="optimizer=OptimizerSpec"):
            fit_stream(module, short, trainer=QUIET)


@pytest.mark.parametrize("fit", [True, False])
def test_a_plain_fit_says_what_to_call(short, fit):
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, max_epochs=1, **QUIET)
    data = StreamDataModule(short)
    module = DGRModule(mlp(), **SMALL)

    def validate():
        trainer.validate(module, dataloaders=[data.test_batches(0)])

    call = (lambda: trainer.fit(module, datamodule=data)) if fit else validate
    with pytest.raises(ConfigError, match=r"trainer\.fit|fit_stream"):
        call()


class Impatient(PluginMetric):
    """Asks to stop at the third batch of an experience."""

    def result(self):
        return 0.0

    def reset(self):
        pass

    def after_training_iteration(self, strategy):
        if strategy.clock.train_exp_iterations == 2:
            strategy.stop_training()


def test_a_metric_that_stops_training_is_heard(short):
    evaluator = EvaluationPlugin(Impatient(), loggers=[])
    epochs, module = Epochs(), NaiveModule(mlp())
    settings = {"trainer": QUIET, "callbacks": [epochs], "batch_size": 10, "epochs": 4}
    fit_stream(module, short, evaluator=evaluator, **settings)
    assert [(epoch, step) for _, epoch, step in epochs.seen] == [(0, 3), (0, 6), (0, 9)]


class CtrlC(pl.Callback):
    """Interrupts the third experience in a stage of some name."""

    def __init__(self, stage):
        self.stage = stage

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if pl_module.stage_name.startswith("experience 3") and self.stage in pl_module.stage_name:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", [DGRModule, DGDMNModule])
@pytest.mark.parametrize("stage", ["generator", "learning"])
def test_an_interrupted_experience_is_as_if_it_had_not_been(short, kind, stage):
    before = {}
    small = DUAL if kind is DGDMNModule else SMALL
    module = kind(mlp(), seed=0, **small)

    def note(result):
        state = module.state_dict()
        before.clear()
        before.update({k: v.clone() for k, v in state.items() if torch.is_tensor(v)})

    with pytest.raises(KeyboardInterrupt):
        fit_stream(
            module,
            short,
            trainer={**QUIET, "callbacks": CtrlC(stage)},
            batch_size=64,
            after_experience=note,
        )
    after = {k: v for k, v in module.state_dict().items() if torch.is_tensor(v)}
    assert after.keys() == before.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())

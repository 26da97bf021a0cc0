"""Strategies, networks and metrics for the tests of run_on_trainer and their helper scripts."""

from __future__ import annotations

import io
import os
import random
import re
import signal
import warnings

import numpy as np
import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation import metrics as m
from avalanche.evaluation.metric_results import AlternativeValues, TensorImage
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, SimpleMLP
from avalanche.models.dynamic_modules import MultiTaskModule
from avalanche.training.plugins import (
    AGEMPlugin,
    CWRStarPlugin,
    EarlyStoppingPlugin,
    EvaluationPlugin,
    EWCPlugin,
    FromScratchTrainingPlugin,
    GDumbPlugin,
    GEMPlugin,
    LFLPlugin,
    LRSchedulerPlugin,
    LwFPlugin,
    MASPlugin,
    ReplayPlugin,
    RWalkPlugin,
    SynapticIntelligencePlugin,
)
from avalanche.training.supervised import Naive
from scipy import optimize
from torch import nn

from avalanche_dgm import (
    DGDMNPlugin,
    DGRPlugin,
    DynamicMemoryPlugin,
    LatentReplayPlugin,
    PseudoRehearsalPlugin,
    sklearn_digits,
)

SMALL = {"generator_steps": 8, "hidden": (16, 16), "latent": 4, "seed": 0}
GAN = {
    "generator_steps": 4,
    "width": 4,
    "discriminator_width": 4,
    "latent": 16,
    "replay_per_class": 16,
    "batch_size": 16,
    "discriminator_finetune_epochs": 1,
    "smax": 1e3,
    "seed": 0,
}
#: Metrics that measure the machine: their values differ from run to run.
MACHINE = re.compile("Time|RAM|CPU|GPU|DiskUsage|Seconds")


def digits(**options):
    return sklearn_digits(n_experiences=5, seed=0, **options)


def stream(benchmark, n=3):
    return list(benchmark.train_stream[:n])


def tested(benchmark, n):
    return list(benchmark.test_stream[:n])


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def dropout():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, 10)
    )


def normed():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 10)
    )


class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU())
        self.classifier = IncrementalClassifier(24, 2)

    def forward(self, x):
        return self.classifier(self.features(x))


class MultiHead(MultiTaskModule):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU())
        self.classifier = MultiHeadClassifier(24, 2)

    def forward(self, x, task_labels):
        return self.classifier(self.features(x), task_labels)


def simple():
    return SimpleMLP(num_classes=10, input_size=64, hidden_size=24, drop_rate=0.0)


class Failing(SupervisedPlugin):
    """Fails in the second experience."""

    active = True

    def before_training_epoch(self, strategy, *args, **kwargs):
        clock = strategy.clock
        if type(self).active and clock.train_exp_counter == 1 and clock.train_exp_epochs == 1:
            raise InterruptedError("on purpose")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Killing(SupervisedPlugin):
    """Kills the process in the middle of training or of testing."""

    #: Of the class, so that it is not saved with the strategy.
    moment = None

    def after_training_iteration(self, strategy, *args, **kwargs):
        clock = strategy.clock
        if self.moment == "training" and clock.train_exp_counter and clock.train_exp_epochs:
            die()

    def after_eval_exp(self, strategy, *args, **kwargs):
        if self.moment == "testing" and strategy.clock.train_exp_counter == 2:
            die()


class Noise(SupervisedPlugin):
    """Moves the weights at random, in each process differently."""

    def before_forward(self, strategy, *args, **kwargs):
        with torch.no_grad():
            for parameter in strategy.model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))


class Recording:
    """A logger that counts what it is told."""

    def __init__(self):
        self.told = 0

    def log_metrics(self, values):
        self.told += len(values)


def solve_quadprog(plugin, gradient):
    """GEM's quadratic programme, for machines without the package that Avalanche uses."""
    memories = plugin.G.double().numpy()
    g = gradient.double().numpy()
    quadratic = memories @ memories.T + 1e-3 * np.eye(len(memories))
    found = optimize.minimize(
        lambda v: 0.5 * v @ quadratic @ v + (memories @ g) @ v,
        np.full(len(memories), plugin.memory_strength),
        jac=lambda v: quadratic @ v + memories @ g,
        bounds=[(plugin.memory_strength, None)] * len(memories),
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-12},
    )
    return torch.from_numpy(found.x @ memories + g).float()


GEMPlugin.solve_quadprog = solve_quadprog


def first_relu(model):
    return next(name for name, layer in model.named_modules() if isinstance(layer, nn.ReLU))


#: From a model and its optimiser to the plugins.
PLUGINS = {
    "naive": lambda model, optimizer: [],
    "replay": lambda model, optimizer: [ReplayPlugin(mem_size=60)],
    "ewc": lambda model, optimizer: [EWCPlugin(ewc_lambda=10.0)],
    "ewc-online": lambda model, optimizer: [EWCPlugin(10.0, mode="online", decay_factor=0.5)],
    "lwf": lambda model, optimizer: [LwFPlugin(alpha=1.0, temperature=2.0)],
    "si": lambda model, optimizer: [SynapticIntelligencePlugin(si_lambda=1.0)],
    "mas": lambda model, optimizer: [MASPlugin(lambda_reg=0.01)],
    "gdumb": lambda model, optimizer: [GDumbPlugin(mem_size=60)],
    "scratch": lambda model, optimizer: [FromScratchTrainingPlugin()],
    "cwr": lambda model, optimizer: [CWRStarPlugin(model, freeze_remaining_model=True)],
    "lfl": lambda model, optimizer: [LFLPlugin(lambda_e=0.5)],
    "schedule": lambda model, optimizer: [
        LRSchedulerPlugin(torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5))
    ],
    "gem": lambda model, optimizer: [GEMPlugin(patterns_per_experience=20, memory_strength=0.5)],
    "agem": lambda model, optimizer: [AGEMPlugin(patterns_per_experience=20, sample_size=16)],
    "rwalk": lambda model, optimizer: [RWalkPlugin()],
    "stopping": lambda model, optimizer: [
        EarlyStoppingPlugin(1, "train_stream", margin=0.02),
        ReplayPlugin(mem_size=60),
    ],
    "dgr": lambda model, optimizer: [DGRPlugin(**SMALL)],
    "dgdmn": lambda model, optimizer: [DGDMNPlugin(**SMALL, learner_steps=8)],
    "dgdmn-no-stm": lambda model, optimizer: [
        DGDMNPlugin(**SMALL, learner_steps=8, short_term=False)
    ],
    "dynamic": lambda model, optimizer: [DynamicMemoryPlugin(**GAN)],
    "dynamic-discriminator": lambda model, optimizer: [
        DynamicMemoryPlugin(classifier="discriminator", **GAN)
    ],
    "latent": lambda model, optimizer: [LatentReplayPlugin(seed=0, layer=first_relu(model))],
    "latent-alternating": lambda model, optimizer: [
        LatentReplayPlugin(
            seed=0, layer=first_relu(model), schedule="alternating", encode_once=False
        )
    ],
    "pseudo": lambda model, optimizer: [PseudoRehearsalPlugin(seed=0)],
    "both": lambda model, optimizer: [DGRPlugin(**SMALL), EWCPlugin(ewc_lambda=10.0)],
}


class AccuracyPerTask(m.AccuracyPerTaskPluginMetric):
    """Avalanche ships the base only."""

    def __init__(self):
        super().__init__(reset_at="epoch", emit_at="epoch", mode="train")

    def __str__(self):
        return "AccuracyPerTask"


def supervised_metrics():
    """Every metric that Avalanche ships for supervised classification on a CPU.

    Forward transfer needs an evaluation of the test stream before each experience.
    """
    stages = {"minibatch": True, "epoch": True, "experience": True, "stream": True}
    running = {**stages, "epoch_running": True}
    return [
        m.accuracy_metrics(**running, trained_experience=True),
        m.loss_metrics(**running),
        m.topk_acc_metrics(top_k=3, **running, trained_experience=True),
        m.class_accuracy_metrics(**running),
        m.amca_metrics(),
        m.forgetting_metrics(experience=True, stream=True),
        m.bwt_metrics(experience=True, stream=True),
        m.forward_transfer_metrics(experience=True, stream=True),
        m.confusion_matrix_metrics(stream=True, save_image=False, num_classes=10),
        m.labels_repartition_metrics(on_train=True, on_eval=True, image_creator=None),
        m.mean_scores_metrics(on_train=True, on_eval=True, image_creator=None),
        m.CumulativeAccuracyPluginMetric(),
        m.CumulativeForgettingPluginMetric(),
        m.accuracy_matrix_metrics(),
        m.images_samples_metrics(on_train=True, on_eval=True, n_rows=2, n_cols=2),
        m.MAC_metrics(minibatch=True, epoch=True, experience=True),
        m.WeightCheckpoint(),
        AccuracyPerTask(),
        m.timing_metrics(**running),
        m.cpu_usage_metrics(**running),
        m.gpu_usage_metrics(0, every=0.01, **stages),
        m.ram_usage_metrics(every=0.01, minibatch=True, epoch=True, experience=True, stream=True),
        m.disk_usage_metrics(
            paths_to_monitor=[os.path.dirname(__file__)],
            minibatch=True,
            epoch=True,
            experience=True,
            stream=True,
        ),
    ]


def few_metrics():
    return [
        m.accuracy_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        m.loss_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        m.forgetting_metrics(experience=True, stream=True),
        m.confusion_matrix_metrics(stream=True, save_image=False, num_classes=10),
    ]


def build(
    plugins="naive",
    network=mlp,
    *,
    metrics=few_metrics,
    loggers=(),
    seed=0,
    lr=0.05,
    optimizer=None,
    template=Naive,
    more=(),
    **options,
):
    """A strategy, always the same for the same arguments."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    model = network()
    make = optimizer or (lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9))
    made = make(model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EvaluationPlugin(*metrics(), loggers=list(loggers))
    options = {"train_mb_size": 32, "train_epochs": 2, "eval_mb_size": 50, **options}
    return template(
        model=model,
        optimizer=made,
        criterion=options.pop("criterion", None) or nn.CrossEntropyLoss(),
        plugins=[*PLUGINS[plugins](model, made), *more],
        evaluator=evaluator,
        **options,
    )


def by_avalanche(strategy, benchmark, *, n=3, eval_streams=None, **options):
    """What run_on_trainer must give: Avalanche's own loop."""
    results = []
    for experience in stream(benchmark, n):
        strategy.train(experience, eval_streams, **options)
        results.append(dict(strategy.eval(tested(benchmark, n))))
    return results


def weights(model):
    return {k: v.detach().clone() for k, v in model.state_dict().items() if torch.is_tensor(v)}


def plain(value):
    """A metric's value as numbers, lists and dictionaries."""
    if isinstance(value, AlternativeValues):
        value = value.alternatives[-1]
    if isinstance(value, TensorImage):
        value = value.image
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, bytes):
        module = torch.load(io.BytesIO(value), weights_only=False)
        return {k: plain(v) for k, v in weights(module).items()}
    if torch.is_tensor(value):
        return value.tolist()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def values(metrics):
    """The values that must be equal: all but those that measure the machine."""
    return {k: plain(v) for k, v in metrics.items() if not MACHINE.search(k)}

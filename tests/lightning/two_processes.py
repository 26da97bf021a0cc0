"""What tests look at in one or two processes, all in one start of them.

Usage: two_processes.py OUT DEVICES STRATEGY [NAME ...]. Each process writes what it remembers
after every experience to OUT/NAME.rank<r>.pt. NAME@plain has a network without BatchNorm,
NAME@long trains for long enough to remember, NAME@spawn by two processes that this one starts.
strategy:NAME is a case of `two_processes_strategies.py`. With KILL_AT, the second process kills
itself at that batch; with LATE_AT, the time of the first one is over then; with TERM_AT, it gets a
SIGTERM; with SAVED, the run is saved there, and goes on with what is there.
"""

import os
import signal
import sys
import warnings
from collections import OrderedDict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from avalanche.evaluation.metrics import (
    StreamConfusionMatrix,
    accuracy_metrics,
    class_accuracy_metrics,
    forgetting_metrics,
    loss_metrics,
)
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "contracts"))
sys.path.insert(0, str(Path(__file__).parent.parent))
from backends import BACKENDS, look, made
from driver import leave

from avalanche_dgm import OptimizerSpec, sklearn_digits
from avalanche_dgm.lightning import NaiveModule, fit_stream
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.methods import finetuning

# As in the tests: here, so that every process does, however it was started.
finetuning.ENOUGH_STEPS = finetuning.LEAST_STEPS = 0


def stream(n=3, n_train_per_class=60):
    benchmark = sklearn_digits(n_experiences=5, n_train_per_class=n_train_per_class, seed=0)
    return SimpleNamespace(
        train_stream=list(benchmark.train_stream)[:n], test_stream=list(benchmark.test_stream)[:n]
    )


def model(norm=False):
    # Other processes begin with other weights: the first one's count.
    torch.manual_seed(int(os.environ.get("LOCAL_RANK", "0")))
    middle = nn.BatchNorm1d(40) if norm else nn.Identity()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), middle, nn.ReLU(), nn.Linear(40, 10))


def plain(width=40):
    """A network without stochastic layers, in which latent replay finds where to cut."""
    torch.manual_seed(int(os.environ.get("LOCAL_RANK", "0")))
    features = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())
    return nn.Sequential(OrderedDict(features=features, classifier=nn.Linear(width, 10)))


VAE = {"generator_steps": 200, "hidden": (64, 64), "latent": 8}
ADAM = OptimizerSpec("adam", 5e-4, "cosine", options={"betas": (0.5, 0.999)})
GAN = {"generator_steps": 150, "width": 8, "discriminator_width": 8, "gan_optimizer": ADAM}
#: Settings with which a method remembers, by what its name begins with.
LONG = {
    "dgr": VAE,
    "dgdmn": {**VAE, "learner_steps": 200},
    "altm-generated": VAE,
    "latent-vae": VAE,
    "dynamic-memory": GAN,
    "mergan": GAN,
    "ewc-generator": GAN,
    "gan-replay": GAN,
}


def make(name):
    name, _, network = name.partition("@")
    network = network.removeprefix("spawn")
    if name == "naive" and not network:
        sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
        return NaiveModule(model(), optimizer=sgd)
    if not network:
        return made(name, 1, model(norm=True), seed=0)
    if network == "plain":
        # Fine-tuning draws its batches in each process.
        more = {"finetune_steps": 0} if name == "latent" else {}
        return made(name, 1, plain(), seed=0, **more)
    long = next((more for start, more in LONG.items() if name.startswith(start)), {})
    if name == "naive":
        return NaiveModule(plain(100))
    kind, hyper = BACKENDS[name][1:]
    return kind(plain(100), seed=0, **{**hyper, **long})


def evaluation(log):
    return EvaluationPlugin(
        accuracy_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        loss_metrics(epoch=True, experience=True, stream=True),
        forgetting_metrics(experience=True, stream=True),
        class_accuracy_metrics(epoch=True, experience=True, stream=True),
        StreamConfusionMatrix(num_classes=10, save_image=False),
        loggers=[TextLogger(log)],
    )


class Dying(pl.Callback):
    def __init__(self, timer):
        self.count, self.timer = 0, timer
        self.kill, self.late, self.term = (
            int(os.environ.get(name, -1)) for name in ("KILL_AT", "LATE_AT", "TERM_AT")
        )

    def on_train_batch_start(self, trainer, *args):
        if self.count == self.kill and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.count == self.term and trainer.global_rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        if self.count == self.late and trainer.global_rank == 0:
            self.timer._duration = 0.0
        self.count += 1


class Watch:
    """Keeps what a process remembers after each experience."""

    def __init__(self, path):
        self.path, self.seen = path, []

    def __call__(self, trainer, module, *, when):
        rank = trainer.global_rank
        self.seen.append({k: v for k, v in module.state_dict().items() if torch.is_tensor(v)})
        torch.save(self.seen, f"{self.path}.rank{rank}.pt")


def main(out, devices, strategy, names):
    from avalanche_dgm.lightning import stream_run

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    real = stream_run.check_identical
    # Before the first fit, as in a script with one: later, loggers can be made on rank 0 only.
    logs = {name: open(f"{out}/{name}.{os.getpid()}.log", "w") for name in names}  # noqa: SIM115
    evaluators = {
        name: evaluation(log)
        for name, log in logs.items()
        if strategy == "ddp" and not name.endswith(("@long", "@spawn"))
    }
    for name in names:
        watch = Watch(f"{out}/{name}")

        def check(trainer, module, *, when, watch=watch):
            watch(trainer, module, when=when)
            real(trainer, module, when=when)

        stream_run.check_identical = check
        trainer = {
            "accelerator": "cpu",
            "devices": 2 if name.endswith("@spawn") else devices,
            "strategy": strategy if devices > 1 else "auto",
            "max_epochs": 8 if name.endswith("@long") else 2,
            "enable_progress_bar": False,
        }
        if name.endswith("@spawn"):
            trainer["strategy"] = "ddp_spawn"
        module = make(name)
        settings = {"trainer": trainer, "evaluator": evaluators.get(name), "batch_size": 34}
        if "SAVED" in os.environ:
            settings |= {"checkpoint_dir": os.environ["SAVED"], "resume": True, "save_every": 3}
        timer = pl.callbacks.Timer({"hours": 1})
        data = stream(n_train_per_class=None) if name.endswith("@long") else stream()
        result = fit_stream(module, data, callbacks=[Dying(timer), timer], **settings)
        logs[name].close()
        rank = os.environ.get("LOCAL_RANK", "0")
        state = {
            "model": module.model.state_dict(),
            "accuracy": result.accuracy,
            "metrics": result.metrics,
            "sample": look(module.method),
            "stopped": result.stopped,
        }
        torch.save(state, f"{out}/{name}.result{rank}.pt")


if __name__ == "__main__":
    out, devices, strategy, *names = sys.argv[1:]
    main(out, int(devices), strategy, [n for n in names if not n.startswith("strategy:")])
    strategies = [n.removeprefix("strategy:") for n in names if n.startswith("strategy:")]
    if strategies:
        import two_processes_strategies

        two_processes_strategies.main(Path(out), strategies)
    leave()

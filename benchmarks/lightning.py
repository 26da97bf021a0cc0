"""Time of learning a stream under a Lightning Trainer against the same in memory and in Avalanche.

DGR with its default generator and an MLP learn the first experiences of split MNIST three ways, in
turn, so that a machine whose speed drifts favours none: by `fit_stream`; by a plain loop over
tensors with the phases run by `avalanche_dgm.fitting.fit`; and by Avalanche's loop with
`DGRPlugin`. Tests are not timed. Quote the ratios, not the seconds.

    python benchmarks/lightning.py --repeats 3 --data-root data
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn

from avalanche_dgm import DGRPlugin, make_stream
from avalanche_dgm.fitting import fit
from avalanche_dgm.lightning import DGRModule, StreamDataModule, fit_stream
from avalanche_dgm.methods import DGR

BATCH = 128


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(400, 10))


def on_trainer(stream: Any, steps: int, arguments: dict[str, Any]) -> tuple[float, nn.Module]:
    module = DGRModule(network(), generator_steps=steps, seed=0)
    trainer = {"enable_progress_bar": False, **arguments}
    result = fit_stream(module, stream, trainer=trainer, test="none", batch_size=BATCH)
    return sum(result.seconds), module.model


def in_memory(stream: Any, steps: int, device: torch.device) -> tuple[float, nn.Module]:
    """Batches are those of `fit_stream`."""
    net = network().to(device)
    method, data = DGR(generator_steps=steps, seed=0), StreamDataModule(stream, batch_size=BATCH)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    seconds = 0.0
    for i in range(data.n_experiences):
        started = time.perf_counter()
        experience = data.experience_data(i)
        experience = type(experience)(
            *(t.to(device) for t in (experience.images, experience.labels, experience.tasks)),
            experience.key,
        )
        method.to(device)
        method.attach(net, task_aware=False)
        method.begin(experience)
        for phase in method.before_learning(experience):
            fit(phase, method.rng)
        for images, labels, tasks in data.train_batches(i):
            images, labels, tasks = images.to(device), labels.to(device), tasks.to(device)
            replay, n = method.replay(len(images)), len(images)
            if replay is not None:
                images = torch.cat([images, replay.images])
                tasks = torch.cat([tasks, replay.tasks])
            logits = method.respond(images, tasks, width=10)
            loss = new = F.cross_entropy(logits[:n], labels)
            if replay is not None:
                again = F.cross_entropy(logits[:n], labels)
                loss = method.with_replay(new, again, logits[n:], replay)
                method.count(replay, 10)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        method.end(experience)
        seconds += time.perf_counter() - started
    return seconds, net


def in_avalanche(stream: Any, steps: int, device: torch.device) -> tuple[float, nn.Module]:
    net = network()
    strategy = Naive(
        model=net,
        optimizer=torch.optim.Adam(net.parameters(), lr=1e-3, fused=True),
        train_mb_size=BATCH,
        train_epochs=1,
        device=device,
        plugins=[DGRPlugin(generator_steps=steps, seed=0)],
        evaluator=EvaluationPlugin(loggers=[]),
    )
    started = time.perf_counter()
    for experience in stream.train_stream:
        strategy.train(experience)
    return time.perf_counter() - started, net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--experiences", type=int, default=2)
    parser.add_argument("--generator-steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--data-root", default=os.environ.get("AVALANCHE_DGM_DATA"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    whole = make_stream("split-mnist", data_root=arguments.data_root)
    stream = SimpleNamespace(
        train_stream=list(whole.train_stream)[: arguments.experiences],
        test_stream=list(whole.test_stream)[:1],
    )
    device, steps = torch.device(arguments.device), arguments.generator_steps
    accelerator = {"accelerator": "gpu" if arguments.device == "cuda" else "cpu", "devices": 1}
    ratios: list[tuple[float, float]] = []
    for repeat in range(arguments.repeats + 1):
        ours, module = on_trainer(stream, steps, accelerator)
        plain, net = in_memory(stream, steps, device)
        theirs, _ = in_avalanche(stream, steps, device)
        same = all(
            torch.equal(a.cpu(), b.cpu())
            for a, b in zip(module.parameters(), net.parameters(), strict=True)
        )
        if repeat:  # The first one warms up.
            ratios.append((ours / plain, ours / theirs))
            print(
                f"Trainer / in memory {ratios[-1][0]:.3f}, / Avalanche {ratios[-1][1]:.3f}", end=""
            )
            print(f", weights {'equal' if same else 'differ'}")
    for name, column in zip(("in memory", "Avalanche"), zip(*ratios, strict=True), strict=True):
        print(f"Trainer / {name}: median {statistics.median(column):.3f}")


if __name__ == "__main__":
    main()

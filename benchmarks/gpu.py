"""What a GPU is worth here, in one script of less than eight minutes; also `make gpu`.

Written to a file of results are: whether the GPU answers as the CPU does, the time of each method's
inner loop on both, what bfloat16 and compilation save of it, and how far the two longest of the
papers' experiments get in the time that is left. Those two need MNIST, see ``--data-root``.

    python benchmarks/gpu.py --device cuda --out docs/results/gpu.json
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from acceleration import seconds as gan_seconds
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.experiments.config import ExperimentConfig
from avalanche_dgm.experiments.provenance import collect
from avalanche_dgm.experiments.runner import run
from avalanche_dgm.fitting import Phase, fit
from avalanche_dgm.methods import DGDMN, DGR, DynamicMemory, Method

#: The methods whose phases are timed; shapes are those of MNIST.
METHODS: dict[str, Callable[..., Method]] = {
    "dgr": lambda steps: DGR(seed=0, generator_steps=steps),
    "dgr, convolutions": lambda steps: DGR(
        seed=0, generator_steps=steps, architecture="conv", likelihood="gaussian"
    ),
    "dgdmn": lambda steps: DGDMN(seed=0, stm_size=1, generator_steps=steps, learner_steps=steps),
    "dynamic-memory": lambda steps: DynamicMemory(seed=0, generator_steps=steps, class_steps=steps),
}
#: Those that are run on the embedded digits, on both devices.
RUNS = ("naive", "dgr", "dgdmn", "altm-stored", "latent-replay", "dynamic-memory-discriminator")
#: The longest experiments of the papers; they share the time that is left.
LONG = {
    "dgdmn on TDigits, the paper's settings": [
        "--config",
        "kamra2017-tdigits",
        "--method",
        "dgdmn",
    ],
    "dynamic memory on MNIST, the authors' settings": ["--config", "ostapenko2019-mnist"],
}


def images_of(label: int, n: int, device: str) -> ExperienceData:
    """Blobs in MNIST's shape, a place for each class."""
    rng = torch.Generator().manual_seed(label)
    images = 0.2 * torch.rand(n, 1, 28, 28, generator=rng)
    images[:, :, 2 + 2 * label : 8 + 2 * label, 4:20] += 0.7
    labels = torch.full((n,), label)
    data = (images.to(device), labels.to(device), torch.zeros_like(labels).to(device))
    return ExperienceData(*data, str(label), str(label))


def network(device: str) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 10)]
    return nn.Sequential(*layers).to(device)


def phases(method: Method, data: ExperienceData) -> Iterator[Phase]:
    """What a method trains on the side in an experience; whoever iterates trains it."""
    method.begin(data)
    yield from method.before_learning(data)
    yield from method.after_learning(data)
    method.end(data)


def learned(
    make: Callable[..., Method], steps: int, device: str
) -> tuple[Method, dict[str, float]]:
    """A method that has learned two classes, and milliseconds a step of each kind of phase."""
    method = make(steps).to(device)
    method.attach(network(device), task_aware=False)
    spent: dict[str, list[float]] = {}
    for label in (0, 1):
        for phase in phases(method, images_of(label, 1280, device)):
            kind = phase.name.partition(":")[0]
            spent.setdefault(kind, []).append(1e3 * fit(phase, method.rng) / phase.steps)
    # The first of each kind warms up, where there are several.
    return method, {kind: min(times) for kind, times in spent.items()}


def difference(method: Method, device: str) -> float:
    """The largest difference of the logits of a trained method on the CPU and on a device."""
    images = torch.cat([images_of(label, 100, "cpu").images for label in (0, 1)])

    def answers(where: str) -> Tensor:
        mine = copy.deepcopy(method).to(where).eval()
        tasks = torch.zeros(len(images), dtype=torch.int64, device=where)
        with torch.no_grad():
            return mine.predict(images.to(where), tasks).cpu()

    return float((answers(device) - answers("cpu")).abs().max())


def inner_loops(device: str, steps: int) -> dict[str, Any]:
    """Times of the phases on both devices, and whether what was learned answers alike."""
    found: dict[str, Any] = {}
    for name, make in METHODS.items():
        method, here = learned(make, steps, "cpu")
        _, there = learned(make, steps, device)
        found[name] = {
            "ms a step on the CPU": here,
            f"ms a step on {device}": there,
            "largest difference of logits": difference(method, device),
        }
    return found


def compiled(device: str, steps: int) -> dict[str, Any]:
    """The autoencoder's phase as it is and compiled."""
    method = DGR(seed=0, generator_steps=steps).to(device)
    method.attach(network(device), task_aware=False)
    times = []
    for label, change in enumerate((lambda loss: loss, torch.compile)):
        for phase in phases(method, images_of(label, 1280, device)):
            loss: Any = phase.loss
            # Once more, when all is compiled.
            times.append([fit(replace(phase, loss=change(loss)), method.rng) for _ in range(2)][1])
    return {"seconds": times[:2], "ratio": times[1] / times[0]}


def accuracies(device: str, fast: bool) -> dict[str, Any]:
    """Accuracy on the embedded digits after the last experience, on both devices."""
    found = {}
    for method in RUNS:
        for where in ("cpu", device):
            config = ExperimentConfig.create(method, "sklearn-digits", device=where, fast=fast)
            started = time.perf_counter()
            result = run(config)
            found[f"{method}, {where}"] = {
                "accuracy": result.average(),
                "seconds": time.perf_counter() - started,
            }
    return found


def as_far_as_it_gets(words: list[str], limit: float, more: list[str]) -> dict[str, Any]:
    """Runs a command for some seconds, then interrupts it; what it had measured by then."""
    with tempfile.TemporaryDirectory() as folder:
        where = ["--out", folder, "--name", "run", "--log", "none", "--quiet"]
        command = [sys.executable, "-m", "avalanche_dgm", "run", *words, *more, *where]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait()
        file = Path(folder) / "run" / "results.json"
        if not file.is_file():
            return {"command": command[2:], "experiences": 0}
        results = json.loads(file.read_text())
    steps = results["steps"]
    return {
        "command": " ".join(["avalanche-dgm", *command[3:-7]]),
        "experiences": f"{len(steps)} of {len(results['order'])}",
        "complete": results["complete"],
        "accuracy on each, after each": [step["accuracy"] for step in steps],
        "seconds": [step["seconds"] for step in steps],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=7.5, help="for all of it")
    parser.add_argument("--data-root", default=os.environ.get("AVALANCHE_DGM_DATA"))
    parser.add_argument("--fast", action="store_true", help="shows that it works, no more")
    options = parser.parse_args()
    # Threads that wait for one another on a busy machine would be what is measured.
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * options.minutes
    device, steps = options.device, 4 if options.fast else 300
    found: dict[str, Any] = {"provenance": collect(device)}

    def measure(name: str, function: Callable[..., Any], *arguments: Any) -> None:
        print(name, flush=True)
        try:
            found[name] = function(*arguments)
        except Exception as error:  # Whatever does not run on this device is a result, too.
            found[name] = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found[name], indent=1), flush=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")

    measure("inner loops", inner_loops, device, steps)
    measure("accuracies", accuracies, device, options.fast)
    measure("compiled autoencoder", compiled, device, steps)
    for architecture in ("dcgan",) if options.fast else ("dcgan", "resnet"):
        times = [
            lambda name=architecture, way=way: gan_seconds(name, device, steps, accelerate=way)
            for way in (False, True)
        ]
        measure(
            f"{architecture} GAN in bfloat16",
            lambda times=times: {"plain / bfloat16, s": [time() for time in times]},
        )
    for i, (name, words) in enumerate(LONG.items()):
        left = (end - time.monotonic()) / (len(LONG) - i)
        if options.data_root is None or left < 10:
            reason = "no --data-root" if options.data_root is None else "no time was left"
            found[name] = {"not run": reason}
            continue
        more = ["--data-root", options.data_root, "--device", device]
        measure(name, as_far_as_it_gets, words, left, more)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Run folders as the command line writes them, with numbers and pictures that are made up."""

import numpy as np

from avalanche_dgm.dashboards.file_sink import FileSink
from avalanche_dgm.dashboards.sinks import Histogram, Picture
from avalanche_dgm.experiments import ExperimentConfig, RunResult
from avalanche_dgm.experiments.results import Step
from avalanche_dgm.experiments.storage import write_result


def accuracies(n, *, keep, seed):
    """A matrix (n, n): what is learned starts near 1 and loses a part with each experience."""
    rng = np.random.default_rng(seed)
    matrix = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if j <= i:
                matrix[i, j] = 0.97 * keep ** (i - j)
        matrix[i] = np.clip(matrix[i] + rng.normal(0, 0.02, n), 0, 1).round(4)
    return matrix.tolist()


def result(
    method="dgr",
    seed=0,
    *,
    n=5,
    learned=None,
    matrix=None,
    stream="sklearn-digits",
    tasks=None,
    order=None,
    **settings,
):
    """A result of n experiences, of which some are learned."""
    order = list(range(n)) if order is None else order
    learned = len(order) if learned is None else learned
    matrix = matrix or accuracies(n, keep=0.5 if method == "naive" else 0.95, seed=seed)
    generates = method != "naive"
    steps = [
        Step(
            experience=order[i],
            accuracy=matrix[i],
            stream_accuracy=float(np.mean([v for v in matrix[i] if v is not None])),
            seconds=10.0 + i + seed,
            eval_seconds=0.5,
            phases={"generator": 6.0 + i, "classifier": 3.0} if generates else {},
            replayed=100 * i if generates else 0,
            histogram=dict.fromkeys(range(i), 100) if generates else {},
            stm_occupancy=i % 3 if method == "dgdmn" else 0,
            sleeps=i // 3 if method == "dgdmn" else 0,
            sleep_seconds=2.0 * (i // 3) if method == "dgdmn" else 0.0,
            memory_bytes=700_000 + 1000 * i if generates else 0,
            peak_bytes=900_000 if generates else 0,
        )
        for i in range(learned)
    ]
    return RunResult(
        config=ExperimentConfig(method=method, stream=stream, seed=seed, **settings),
        tasks=[str(j) for j in range(n)] if tasks is None else tasks,
        order=order,
        steps=steps,
        provenance={
            "started": f"2026-01-02T03:04:{seed:02d}+00:00",
            "command": f"avalanche-dgm run --method {method} --seed {seed}",
            "versions": {"python": "3.11.7", "avalanche_dgm": "0.1.0", "torch": "2.6.0"},
            "platform": "Linux",
            "device": "cpu",
        },
        shape=(1, 8, 8),
    )


def write(folder, made, *, panels=None):
    """Writes a run folder.

    Args:
        folder: Where.
        made: A result.
        panels: Fills a `FileSink` with a run's panels, or ``None`` for a run without.
    """
    write_result(folder, made)
    if panels is not None:
        sink = FileSink(folder / "panels")
        panels(sink, made)
        sink.close()
    return folder


def pixels(height, width, seed):
    """A picture that compresses badly: samples of smooth noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4, width // 4), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, 4, axis=0), 4, axis=1)[..., None].repeat(3, axis=2)


def noise(key, seed, at, side=120):
    """A picture of a panel."""
    return pixels(side, side, seed + at)


def all_panels(sink, made, *, picture=noise):
    """Every panel that a dashboard shows."""
    n = len(made.steps)
    seed = made.config.seed
    for step in range(0, 40 * n, 4):
        values = {"train/loss": 2.0 * 0.99**step + 0.01 * seed, "train/accuracy": 1 - 0.99**step}
        sink.log(values, axis="step", at=step)
    for i in range(n):
        at = i + 1
        values = {
            "memory/parameters": 1e5,
            "memory/stored_samples": 20.0 * i,
            "masks/capacity_ratio": 1 + 0.4 * i,
            "reconstructions/error": 0.1 / at,
            "time/samples_per_second": 900.0,
        }
        for layer in ("wide", "narrow"):
            shares = {"reserved": 0.2, "reused": 0.1 * i, "free": max(0.0, 0.7 - 0.15 * i)}
            values |= {f"masks/{layer}/{part}": share for part, share in shares.items()}
        sink.log(values, axis="experience", at=at)
        labels = Histogram(dict.fromkeys(range(i), 100))
        sink.log({"replay/labels": labels}, axis="experience", at=at)
        for key in ("accuracy/matrix", "samples/grid", "reconstructions/grid", "masks/usage"):
            shown = picture(key, seed, at)
            drawn = Picture(shown, f"{key}, {at} learned")
            sink.log({key: drawn}, axis="experience", at=at)
    last = picture("latents/tsne", seed, n)
    sink.log({"latents/tsne": Picture(last, "latents")}, axis="experience", at=n)
    for sleep in (1, 2):
        sink.log({"sleeps/seconds": 2.0 * sleep}, axis="sleep", at=sleep)

"""Random number generators whose state is part of a module's state."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class RandomSource:
    """Reproducible random numbers, from one ``torch.Generator`` per device.

    Without a seed, one is drawn from PyTorch's global generator at the first use, so that
    ``torch.manual_seed`` seeds everything by default.

    Args:
        seed: An integer from 0 to 2**63 - 1, or ``None`` to draw one from the global generator.
    """

    def __init__(self, seed: int | None = None) -> None:
        #: The given seed, or ``None``.
        self.seed = self._seed = seed
        self._generators: dict[str, torch.Generator] = {}

    def on(self, device: torch.device | str) -> torch.Generator:
        """Returns the generator of a device, created on first use."""
        key = str(torch.device(device))
        if key not in self._generators:
            if self._seed is None:
                self._seed = int(torch.randint(2**62, ()).item())
            self._generators[key] = torch.Generator(device=device).manual_seed(self._seed)
        return self._generators[key]

    def child_seed(self) -> int:
        """Draws a seed for another source."""
        return int(torch.randint(2**62, (), generator=self.on("cpu")).item())

    @contextmanager
    def seeded_init(self) -> Iterator[None]:
        """Seeds the initial weights of modules that are built inside, on the CPU.

        PyTorch's global generator is restored afterwards; after an error this source, too.
        """
        with self._restored_after_errors(), seeded_init(self.on("cpu")):
            yield

    @contextmanager
    def rank_seeded(self, rank: int) -> Iterator[None]:
        """Draws different numbers in each process, by its rank.

        Processes with equal states draw different numbers inside and have equal states again
        afterwards. After an error this source is restored.
        """
        with self._restored_after_errors():
            seed = self.child_seed()
            with self.temporary_seed((seed + rank) % 2**63):
                yield

    @contextmanager
    def temporary_seed(self, seed: int) -> Iterator[None]:
        """Uses another seed inside; afterwards, also after an error, this source is restored."""
        before = self.get_state()
        self._seed = seed
        for generator in self._generators.values():
            generator.manual_seed(seed)
        try:
            yield
        finally:
            self.set_state(before)

    @contextmanager
    def _restored_after_errors(self) -> Iterator[None]:
        before = self.get_state()
        try:
            yield
        except BaseException:
            self.set_state(before)
            raise

    def get_state(self) -> dict[str, Any]:
        """Returns the seed and every generator's state (uint8 tensors on the CPU)."""
        return {
            "seed": self._seed,
            "generators": {key: g.get_state().cpu() for key, g in self._generators.items()},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what ``get_state`` returned; absent devices are skipped."""
        self._seed = state["seed"]
        # In place, as others may refer to these generators.
        for key in [k for k in self._generators if k not in state["generators"]]:
            del self._generators[key]
        for key, value in state["generators"].items():
            device = torch.device(key)
            if device.type == "cuda" and not torch.cuda.is_available():
                continue
            generator = self._generators.setdefault(key, torch.Generator(device=device))
            generator.set_state(value.detach().to(device="cpu", dtype=torch.uint8))

    def __getstate__(self) -> dict[str, Any]:
        return self.get_state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._generators = {}
        self.set_state(state)
        self.seed = None

    def __deepcopy__(self, memo: dict[int, Any]) -> RandomSource:
        copy = RandomSource()
        copy.seed = self.seed
        copy.set_state(self.get_state())
        return copy


@contextmanager
def seeded_init(rng: torch.Generator) -> Iterator[None]:
    """Seeds the initial weights of modules built on the CPU, by a seed drawn from ``rng``.

    PyTorch's global generator, which initialises weights, is restored afterwards. With a generator
    on a GPU this synchronises with the device.
    """
    seed = int(torch.randint(2**62, (), generator=rng, device=rng.device).item())
    kept = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.default_generator.set_state(kept)


def global_state() -> dict[str, Any]:
    """State of the global generators of Python, NumPy and PyTorch, on all devices."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_global_state(state: dict[str, Any]) -> None:
    """Restores what `global_state` returned; absent GPUs are skipped."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for index, value in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(value, index)


def seed_globally(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and PyTorch, with 0 to 2**63 - 1."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)

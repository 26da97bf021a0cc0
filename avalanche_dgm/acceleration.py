"""Faster arithmetic for a phase: bfloat16 where it suffices, and channels last."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor, nn

from avalanche_dgm.fitting import Phase, Turn


def accelerate(phase: Phase) -> Phase:
    """The same phase, computed in mixed precision and with channels last.

    Convolutions and matrix products are computed in bfloat16, by ``torch.autocast``: it has the
    range of float32, so losses need no scaling. Weights, moments and sums stay in float32. Images
    and weights of convolutions lie in memory as the tensor cores of a GPU read them.

    Args:
        phase: A phase of turns. Its module's weights are rearranged now, and put back in order by
            the phase's ``finish``; `in_order` does it where that was never reached.
    """
    if all(parameter.device.type == "cpu" for parameter in phase.module.parameters()):
        warnings.warn(
            "accelerate=True is for GPUs: most CPUs compute bfloat16 many times slower than"
            " float32. Leave it out here.",
            stacklevel=2,
        )
    phase.module.to(memory_format=torch.channels_last)

    def finish() -> None:
        in_order(phase.module)
        phase.finish()

    return replace(
        phase,
        loss=[_in_bfloat16(turn) for turn in phase.turns],
        data=tuple(_channels_last(tensor) for tensor in phase.data),
        finish=finish,
    )


def in_order(module: nn.Module) -> None:
    """Puts weights in PyTorch's usual order in memory.

    Which way a convolution is computed, and so the last bits of its outputs, depend on the order.

    Args:
        module: Its weights keep their values.
    """
    module.to(memory_format=torch.contiguous_format)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _in_bfloat16(turn: Turn) -> Turn:
    def loss(batch: tuple[Tensor, ...], rng: torch.Generator, number: int) -> Tensor:
        with torch.autocast(rng.device.type, dtype=torch.bfloat16):
            return turn.loss(batch, rng, number)

    return replace(turn, loss=loss)

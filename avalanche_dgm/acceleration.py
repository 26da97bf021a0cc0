"""Mixed precision (bfloat16) and channels last for a phase."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from avalanche_dgm.fitting import OptimizationStep, Phase


def accelerate(phase: Phase) -> Phase:
    """The same phase in mixed precision and with channels last.

    ``torch.autocast`` computes convolutions and matrix products in bfloat16, which has the range of
    float32, so losses need no scaling. Weights, optimiser states, images and losses are float32.
    The memory format of the phase's module is changed now and restored when the phase ends or
    fails, as the last bits of a convolution's outputs depend on it.
    """
    module = phase.module
    _warn_if_slow({parameter.device for parameter in module.parameters()})
    module.to(memory_format=torch.channels_last)

    def finish() -> None:
        module.to(memory_format=torch.contiguous_format)
        phase.finish()

    def abort() -> None:
        module.to(memory_format=torch.contiguous_format)
        phase.abort()

    return replace(
        phase,
        loss=[_in_bfloat16(step) for step in phase.cycle],
        data=tuple(_channels_last(tensor) for tensor in phase.data),
        finish=finish,
        abort=abort,
    )


def _warn_if_slow(devices: set[torch.device]) -> None:
    for device in devices:
        emulated = device.type == "cuda" and not torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        if device.type == "cpu" or emulated:
            warnings.warn(
                "accelerate=True is for GPUs that support bfloat16, NVIDIA's since Ampere: this"
                f" device ({device}) may be many times slower with it. Leave it out here.",
                stacklevel=3,
            )
            return


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _in_bfloat16(step: OptimizationStep) -> OptimizationStep:
    def loss(batch: tuple[Tensor, ...], rng: torch.Generator, number: int) -> Tensor:
        with torch.autocast(rng.device.type, dtype=torch.bfloat16):
            return step.loss(batch, rng, number)

    return replace(step, loss=loss)

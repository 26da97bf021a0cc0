"""Classifiers of the papers on latent replay and A-LTM, as plain modules.

They return logits, for ``torch.nn.CrossEntropyLoss``, which is the same loss as a paper's
log-softmax layer with the negative log-likelihood.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from avalanche_dgm.data import MASKED_LOGIT
from avalanche_dgm.errors import ConfigError, ShapeError

#: Images with sides below this get small kernels and pools.
_SMALL_SIDE = 20
_LARGE_SIDE = 64


class LatentCompressor(nn.Sequential):
    """Two convolutions and a pooling layer (Saez de Ocariz Borde 2022, Table 1).

    Fully convolutional: it takes images of any size that `latent_shape` accepts. With the defaults
    an image (1, 28, 28) becomes a latent (1, 6, 6), 36 values instead of 784.

    Args:
        in_channels: Channels of the images.
        channels: Channels between the two convolutions.
        out_channels: Channels of the latents.
        kernel_size: Side of both kernels, in pixels.
        padding: Pixels added at each side before each convolution.
        pool: Side and stride of the pooling layer, in pixels.
    """

    def __init__(
        self,
        in_channels: int = 1,
        *,
        channels: int = 10,
        out_channels: int = 1,
        kernel_size: int = 5,
        padding: int = 0,
        pool: int = 3,
    ) -> None:
        super().__init__(
            nn.Conv2d(in_channels, channels, kernel_size, padding=padding),
            nn.BatchNorm2d(channels),
            nn.ELU(),
            nn.Conv2d(channels, out_channels, kernel_size, padding=padding),
            nn.BatchNorm2d(out_channels),
            nn.ELU(),
            nn.MaxPool2d(pool),
        )
        self.out_channels = out_channels
        self._shrink = 2 * (kernel_size - 1 - 2 * padding)
        self._pool = pool

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Shape of an image's latent.

        Args:
            shape: (C, H, W) of the image.

        Returns:
            (C, H, W) of its latent.

        Raises:
            ShapeError: The image is too small.
        """
        height, width = ((side - self._shrink) // self._pool for side in shape[1:])
        if min(height, width) < 1:
            raise ShapeError(
                f"Images of shape {shape} are too small for the compressor, which needs sides of"
                f" at least {self._shrink + self._pool} pixels. Use padding (padding=2 keeps the"
                " size) or a smaller pool."
            )
        return self.out_channels, height, width


class LatentClassifier(nn.Sequential):
    """Six convolutions and two dense layers over latents (Saez de Ocariz Borde 2022, Table 2).

    The convolutions keep the size (padding 1), as without padding 6x6 latents would allow only two.
    In training mode a batch needs at least two samples, for the BatchNorm of the dense layer.

    Args:
        n_classes: Number of outputs.
        latent_shape: (C, H, W) of a latent.
        channels: Channels of every convolution.
        depth: Number of convolutions.
        hidden: Units of the first dense layer.
    """

    def __init__(
        self,
        n_classes: int = 10,
        *,
        latent_shape: tuple[int, int, int] = (1, 6, 6),
        channels: int = 50,
        depth: int = 6,
        hidden: int = 16,
    ) -> None:
        layers: list[nn.Module] = []
        for n_in in [latent_shape[0], *[channels] * (depth - 1)]:
            layers += [nn.Conv2d(n_in, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ELU()]
        n_features = channels * latent_shape[1] * latent_shape[2]
        super().__init__(
            *layers,
            nn.Flatten(),
            nn.Linear(n_features, hidden),
            nn.BatchNorm1d(hidden),
            nn.ELU(),
            nn.Linear(hidden, n_classes),
        )


def latent_replay_network(
    shape: tuple[int, ...] = (1, 28, 28),
    n_classes: int = 10,
    *,
    latent_channels: int = 1,
    padding: int | None = None,
    pool: int | None = None,
) -> nn.Sequential:
    """Builds the network of the latent replay paper for images of any size.

    Args:
        shape: (C, H, W) of an image.
        n_classes: Number of outputs.
        latent_channels: Channels of a latent; 1 in the paper.
        padding: Padding of the compressor's convolutions, in pixels. ``None`` for the paper's 0, or
            2, which keeps the size, for sides below 20 pixels.
        pool: Side of the compressor's pooling layer, in pixels. ``None`` for the paper's 3, or 2
            for sides below 20 pixels.

    Returns:
        A sequence of the parts ``compressor`` and ``classifier``, from images (n, C, H, W) to
        logits (n, n_classes).

    Raises:
        ShapeError: An image does not have three dimensions, or is too small.
    """
    if len(shape) != 3:
        raise ShapeError(f"An image has the shape {shape}; (C, H, W) is needed.")
    small = min(shape[1:]) < _SMALL_SIDE
    compressor = LatentCompressor(
        shape[0],
        out_channels=latent_channels,
        padding=(2 if small else 0) if padding is None else padding,
        pool=(2 if small else 3) if pool is None else pool,
    )
    classifier = LatentClassifier(n_classes, latent_shape=compressor.latent_shape(shape))
    network = nn.Sequential(OrderedDict(compressor=compressor, classifier=classifier))
    # A quarter faster on a CPU than channels first; results differ by rounding.
    return network.to(memory_format=torch.channels_last)


class AlexNetLike(nn.Module):
    """Five convolutions and two dense layers with dropout, and one head per task.

    The layout is that of Krizhevsky et al. (2012) in one tower, without local response
    normalisation. Images with sides of at least 64 pixels have its kernels and strides, smaller
    ones 3x3 kernels and fewer channels.

    Args:
        shape: (C, H, W) of an image.
        heads: Number of outputs; or task label -> number of outputs, for one head per task.
        channels: Channels of the five convolutions; ``None`` chooses by the image's size.
        hidden: Units of the two dense layers; ``None`` chooses by the image's size.
        dropout: Probability of dropping a unit before each dense layer, from 0 to below 1.

    Raises:
        ConfigError: There are not five numbers of channels, or there is no head.
        ShapeError: An image does not have three dimensions, or a side below 8 pixels.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        heads: int | Mapping[int, int] = 10,
        *,
        channels: Sequence[int] | None = None,
        hidden: int | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < 8:
            raise ShapeError(
                f"An image has the shape {shape}; (C, H, W) with sides of at least 8 pixels is"
                " needed."
            )
        large = min(shape[1:]) >= _LARGE_SIDE
        if channels is None:
            channels = (96, 256, 384, 384, 256) if large else (32, 64, 96, 96, 64)
        if len(channels) != 5:
            raise ConfigError(f"channels is {tuple(channels)}; there are five convolutions.")
        if hidden is None:
            hidden = 4096 if large else 256
        self.features = _convolutions(shape[0], channels, large=large)
        with torch.no_grad():
            n_features = self.features(torch.zeros(1, *shape)).numel()
        self.dense = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(n_features, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )
        self.heads = MultiHead(hidden, {0: heads} if isinstance(heads, int) else heads)
        # With PyTorch's default initial weights, which are smaller, a network of this depth without
        # normalisation needs several epochs until it starts to learn.
        for module in (*self.features, *self.dense):
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, task_labels: Tensor | int | None = None) -> Tensor:
        """Classifies images.

        Args:
            x: Float tensor (n, C, H, W).
            task_labels: int64 tensor (n,), or one for all; optional with a single head.

        Returns:
            Logits (n, K), see `MultiHead`.
        """
        return self.heads(self.dense(self.features(x)), task_labels)


class MultiHead(nn.Module):
    """Linear heads of fixed sizes, one per task, with padded logits.

    Args:
        n_features: Number of input features.
        heads: Task label -> number of outputs.

    Raises:
        ConfigError: There is no head, or one without outputs.
    """

    def __init__(self, n_features: int, heads: Mapping[int, int]) -> None:
        super().__init__()
        if not heads or min(heads.values()) < 1:
            raise ConfigError(f"heads is {dict(heads)}; each task needs one output or more.")
        self.heads = nn.ModuleDict(
            {str(task): nn.Linear(n_features, n) for task, n in sorted(heads.items())}
        )
        self.width = max(heads.values())

    def forward(self, features: Tensor, task_labels: Tensor | int | None = None) -> Tensor:
        """Logits of each sample from the head of its task.

        Args:
            features: Float tensor (n, n_features).
            task_labels: int64 tensor (n,), or one for all; optional with a single head.

        Returns:
            Logits (n, K), K outputs of the widest head; those that a sample's head does not have
            are `MASKED_LOGIT`. A head without a sample has no gradient.

        Raises:
            ConfigError: Task labels are missing with several heads, or a task has no head.
        """
        if task_labels is None:
            if len(self.heads) > 1:
                raise ConfigError("The model has a head for each task; give it task labels.")
            return self._padded(next(iter(self.heads.values()))(features))
        if isinstance(task_labels, int):
            return self._padded(self._head(task_labels)(features))
        tasks = task_labels.unique().tolist()
        if len(tasks) == 1:
            return self._padded(self._head(tasks[0])(features))
        logits = features.new_full((len(features), self.width), MASKED_LOGIT)
        for task in tasks:
            rows = (task_labels == task).nonzero().flatten()
            own = self._padded(self._head(task)(features[rows]))
            logits = logits.to(own.dtype).index_copy(0, rows, own)
        return logits

    def _head(self, task: int) -> nn.Module:
        if str(task) not in self.heads:
            raise ConfigError(
                f"There is no head for the task {task}; there are heads for"
                f" {', '.join(self.heads)}."
            )
        return self.heads[str(task)]

    def _padded(self, logits: Tensor) -> Tensor:
        return nn.functional.pad(logits, (0, self.width - logits.shape[1]), value=MASKED_LOGIT)


class DeepLinear(nn.Module):
    """One linear hidden layer and linear heads, without biases (Saxe et al. 2014).

    Args:
        n_in: Dimension of an input.
        hidden: Units of the hidden layer.
        outputs: Number of outputs of each head.
        scale: Standard deviation of the initial weights.
    """

    def __init__(
        self, n_in: int, hidden: int, outputs: Sequence[int], *, scale: float = 0.01
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_in, hidden, bias=False)
        self.heads = nn.ModuleList(nn.Linear(hidden, n, bias=False) for n in outputs)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=scale)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Outputs (n, outputs of the head) of each head for inputs (n, n_in)."""
        features = self.hidden(x)
        return [head(features) for head in self.heads]


def _convolutions(n_in: int, channels: Sequence[int], *, large: bool) -> nn.Sequential:
    """Five convolutions, with pooling after the first, the second and the fifth."""
    kernels = (11, 5, 3, 3, 3) if large else (3,) * 5
    layers: list[nn.Module] = []
    for i, (n_out, kernel) in enumerate(zip(channels, kernels, strict=True)):
        stride = 4 if large and i == 0 else 1
        layers += [nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2), nn.ReLU()]
        if i in (0, 1, 4):
            layers.append(nn.MaxPool2d(3, stride=2) if large else nn.MaxPool2d(2))
        n_in = n_out
    return nn.Sequential(*layers)

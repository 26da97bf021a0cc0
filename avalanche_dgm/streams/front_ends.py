"""Front ends: frozen networks that make features of images, preprocessing included."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.errors import (
    ConfigError,
    DataError,
    RangeError,
    ShapeError,
    UnsupportedModelError,
)
from avalanche_dgm.modules import Frozen, in_type_of

#: What the names of timm's networks begin with.
_TIMM = "timm/"
#: How far outside [0, 1] images may be that were resized before.
_SLACK = 0.01


class FrontEnd(nn.Module):
    """A frozen copy of a network, with its preprocessing of images.

    It stays in evaluation mode, computes no gradients, and runs where its weights are.

    Args:
        network: Maps preprocessed images (n, C, H, W) to features (n, D), or to maps (n, D, h, w),
            of which the mean over places is taken.
        preprocess: Maps images (n, C, H, W) in [0, 1] to the network's inputs, such as transforms
            of ``torchvision.transforms.v2``, or ``weights.transforms()`` of torchvision's
            networks; ``None`` for nothing.

    Raises:
        UnsupportedModelError: The network cannot be copied.
    """

    def __init__(
        self, network: nn.Module, preprocess: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.network = Frozen(network)
        self.preprocess = preprocess

    @torch.no_grad()
    def forward(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Makes features.

        Args:
            images: Float tensor (n, C, H, W) in [0, 1], or n images (C, H, W) of any sizes.

        Returns:
            float32 tensor (n, D), on the network's device.

        Raises:
            RangeError: Intensities outside [0, 1].
            ShapeError: The preprocessing leaves images of different sizes.
            UnsupportedModelError: The network gives no vectors.
            DataError: A feature is not finite.
        """
        features = self.network(in_type_of(self.network, self._inputs(images)))
        if isinstance(features, Tensor) and features.ndim == 4:
            features = features.mean((2, 3))
        if not isinstance(features, Tensor) or features.ndim != 2:
            kind = type(features).__name__
            shape = f" of shape {tuple(features.shape)}" if isinstance(features, Tensor) else ""
            raise UnsupportedModelError(
                f"The front end gives a {kind}{shape}; one tensor of features (images, D) is"
                " needed. Wrap the network in a module that pools them."
            )
        features = features.float()
        if not bool(features.isfinite().all()):
            raise DataError("The front end gives features that are not finite for some images.")
        return features

    def _inputs(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        tensor = next(self.network.parameters(), torch.zeros(0))
        if not isinstance(images, Tensor) and len({image.shape for image in images}) == 1:
            images = torch.stack(list(images))
        if isinstance(images, Tensor):
            return self._prepared(images.to(tensor.device))
        parts = [self._prepared(image[None].to(tensor.device)) for image in images]
        sizes = {tuple(part.shape[1:]) for part in parts}
        if len(sizes) > 1:
            raise ShapeError(
                f"The images are of different sizes ({sorted(sizes)[:3]}) when they come to the"
                " network. Give the front end a size (size=224), or a preprocessing that resizes"
                " and crops them."
            )
        return torch.cat(parts)

    def _prepared(self, images: Tensor) -> Tensor:
        low, high = (float(end) for end in images.aminmax()) if images.numel() else (0.0, 0.0)
        if low < -_SLACK or high > 1 + _SLACK:
            raise RangeError(
                f"Images have intensities from {low:.4g} to {high:.4g}; a front end takes images in"
                " [0, 1] and normalises them itself. Leave that out of the data set's transforms."
            )
        return images if self.preprocess is None else self.preprocess(images)

    def key(self) -> str:
        """A name of its weights and its preprocessing; others have another one.

        Functions are known by their names only.
        """
        # Addresses of functions and objects differ from run to run.
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self))
        digest = hashlib.blake2b(text.encode(), digest_size=12)
        for name, tensor in self.network.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            raw = tensor.detach().cpu().contiguous().flatten()
            digest.update(raw.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def extra_repr(self) -> str:
        """Shows a preprocessing that is no module."""
        return "" if isinstance(self.preprocess, nn.Module) else f"preprocess={self.preprocess!r}"


def front_end(
    source: str | nn.Module,
    *,
    size: int | None = None,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    pretrained: bool = True,
) -> FrontEnd:
    """Makes a frozen feature extractor for images in [0, 1].

    Args:
        source: ``"timm/<name>"`` for a network of timm without its classifier, with the
            preprocessing that it was trained with, on a GPU if there is one; or a network of yours
            that gives features: of torchvision's, one whose last layer is an ``nn.Identity``.
        size: Side in pixels. Images are resized to that shorter side, and their middle square is
            taken. ``None`` for the size that a network of timm was trained with; images for a
            network of yours keep theirs.
        preprocess: What else is done to images before the network, see `FrontEnd`. ``None`` for
            what a network of timm was trained with, and for nothing in a network of yours.
        pretrained: Whether a network of timm has its pretrained weights, which timm downloads.

    Raises:
        ConfigError: There is no such network, or timm is not installed.
        DataError: The weights cannot be loaded.
    """
    if isinstance(source, FrontEnd):
        return source
    if isinstance(source, nn.Module):
        steps = [] if size is None else _square(size, "bilinear")
        return FrontEnd(source, _chain([*steps, *([preprocess] if preprocess else [])]))
    if not source.startswith(_TIMM):
        raise ConfigError(f"front_end is {source!r}; 'timm/<name>' or an nn.Module is needed.")
    network, config = _of_timm(source.removeprefix(_TIMM), pretrained)
    steps = _square(size or max(config["input_size"][1:]), config["interpolation"])
    if preprocess is None:
        from torchvision.transforms import v2

        if config["input_size"][0] == 3:
            steps.append(v2.RGB())
        steps.append(v2.Normalize(config["mean"], config["std"]))
    else:
        steps.append(preprocess)
    made = FrontEnd(network, _chain(steps))
    return made.cuda() if torch.cuda.is_available() else made


def _square(size: int, interpolation: str) -> list[Any]:
    from torchvision.transforms import v2

    mode = v2.InterpolationMode(interpolation)
    # Splines overshoot.
    return [
        v2.Resize(size, interpolation=mode, antialias=True),
        v2.CenterCrop(size),
        *([v2.Lambda(_to_unit)] if interpolation != "bilinear" else []),
    ]


def _to_unit(images: Tensor) -> Tensor:
    return images.clamp(0, 1)


def _chain(steps: Sequence[Any]) -> Callable[[Tensor], Tensor] | None:
    from torchvision.transforms import v2

    return v2.Compose(list(steps)) if steps else None


def _of_timm(name: str, pretrained: bool) -> tuple[nn.Module, dict[str, Any]]:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(
            f"front_end('timm/{name}') needs timm: pip install 'avalanche-dgm[timm]'. Or give a"
            " network of yours."
        ) from error
    if not timm.is_model(name.partition(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise ConfigError(f"timm has no network {name!r}. Near ones: {', '.join(near) or 'none'}.")
    try:
        network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:
        # What fails may be of any kind: the network, the hub, a file.
        raise DataError(
            f"The weights of {name!r} cannot be had: {error}. Without a connection, load them into"
            " the network from a file and give front_end() that network."
        ) from error
    return network, timm.data.resolve_model_data_config(network)

"""Front ends: frozen feature extractors with their preprocessing of images."""

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

#: Prefix of the names of timm's networks.
_TIMM = "timm/"
#: Tolerance of the range [0, 1], for images that were resized before.
_SLACK = 0.01


class FrontEnd(nn.Module):
    """A frozen copy of a network, with its preprocessing of images.

    It stays in evaluation mode, computes no gradients, and runs on the device of its weights.

    Args:
        network: Maps preprocessed images (n, C, H, W) to features (n, D), or to feature maps (n, D,
            h, w), which are averaged over positions.
        preprocess: Maps images (n, C, H, W) in [0, 1] to the network's inputs, such as transforms
            of ``torchvision.transforms.v2``, or ``weights.transforms()`` of torchvision's networks;
            ``None`` for no preprocessing.

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
        """Computes features.

        Args:
            images: Float tensor (n, C, H, W) in [0, 1], or n images (C, H, W) of any sizes.

        Returns:
            float32 tensor (n, D), on the network's device.

        Raises:
            RangeError: Intensities are outside [0, 1].
            ShapeError: Preprocessed images have different sizes.
            UnsupportedModelError: The network does not return vectors.
            DataError: A feature is not finite.
        """
        features = self.network(in_type_of(self.network, self._inputs(images)))
        if isinstance(features, Tensor) and features.ndim == 4:
            features = features.mean((2, 3))
        if not isinstance(features, Tensor) or features.ndim != 2:
            kind = type(features).__name__
            shape = f" of shape {tuple(features.shape)}" if isinstance(features, Tensor) else ""
            raise UnsupportedModelError(
                f"The front end returns a {kind}{shape}; one tensor of features (images, D) is"
                " needed. Wrap the network in a module that pools them."
            )
        features = features.float()
        if not bool(features.isfinite().all()):
            raise DataError("The front end's features of some images are not finite.")
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
                f"The preprocessed images have different sizes ({sorted(sizes)[:3]}). Give the"
                " front end a size (size=224), or a preprocessing that resizes and crops them."
            )
        return torch.cat(parts)

    def _prepared(self, images: Tensor) -> Tensor:
        low, high = (float(end) for end in images.aminmax()) if images.numel() else (0.0, 0.0)
        if low < -_SLACK or high > 1 + _SLACK:
            raise RangeError(
                f"Images have intensities from {low:.4g} to {high:.4g}; a front end takes images in"
                " [0, 1] and normalises them. Remove the normalisation from the data set's"
                " transforms."
            )
        return images if self.preprocess is None else self.preprocess(images)

    def key(self) -> str:
        """A hash of its weights and its preprocessing; of functions only the names count."""
        # Without addresses, which differ between runs.
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self))
        digest = hashlib.blake2b(text.encode(), digest_size=12)
        for name, tensor in self.network.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            raw = tensor.detach().cpu().contiguous().flatten()
            digest.update(raw.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def extra_repr(self) -> str:
        """The preprocessing, if it is not a module."""
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
        source: ``"timm/<name>"`` for a network of timm without its classifier, with its
            preprocessing, on a GPU if there is one; or your own network that returns features, such
            as one of torchvision whose last layer is replaced by an ``nn.Identity``.
        size: Side in pixels. Images are resized to this shorter side and cropped to the central
            square. ``None`` for the training size of a network of timm; with your own network,
            images are not resized.
        preprocess: Further preprocessing, see `FrontEnd`. ``None`` for that of a network of timm,
            and for none with your own network.
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
    # Clamped, as bicubic interpolation overshoots.
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
            f"front_end('timm/{name}') needs timm: pip install 'avalanche-dgm[timm]'. Or give your"
            " own network."
        ) from error
    if not timm.is_model(name.partition(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise ConfigError(f"timm has no network {name!r}. Similar: {', '.join(near) or 'none'}.")
    try:
        network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:
        # The connection, the hub or a file may raise any error.
        raise DataError(
            f"The weights of {name!r} cannot be loaded: {error}. Without a connection, load them"
            " from a file into the network, and pass that network to front_end()."
        ) from error
    return network, timm.data.resolve_model_data_config(network)

"""What the layers of Keras models compute, and the weights they need. Tensors are ``[N, C, ...]``, weights have Keras' layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from ..errors import FaceLoomError

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "linear": lambda x: x, "relu": functional.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "softmax": lambda x: x.softmax(1), "elu": functional.elu, "swish": functional.silu, "softplus": functional.softplus,
}
OPERATORS: dict[str, Callable[..., torch.Tensor]] = {
    "math.multiply": torch.mul, "math.subtract": torch.sub, "math.add": torch.add, "__operators__.add": torch.add,
}
NORM_WEIGHTS = {"scale": "gamma", "center": "beta"}  # the weights that a normalisation has where these settings are on


def _activation(config: Mapping[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Look up the activation that a layer's settings name; none is the identity."""
    return ACTIVATIONS[config.get("activation") or "linear"]


def _padded(x: torch.Tensor, edges: Sequence[int], strides: Sequence[int], rule: str, value: float = 0) -> torch.Tensor:
    """Pad as TensorFlow does for the ``rule`` "same": as much before as after, one more after where the sum is odd."""
    if rule != "same":
        return x
    pads = []
    for size, edge, stride in zip(reversed(x.shape[-2:]), reversed(edges), reversed(strides)):
        total = max((-(-size // stride) - 1) * stride + edge - size, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads, value=value) if any(pads) else x


class Layer:
    """One layer: a method for every class of layer. weights: the layer's own by name (``kernel``), in Keras' layout."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
        self.config, self.weights = config, weights

    def Conv2D(self, x):
        config, kernel = self.config, self.weights["kernel"].permute(3, 2, 0, 1)
        dilation = config.get("dilation_rate", [1, 1])
        edges = [(edge - 1) * step + 1 for edge, step in zip(kernel.shape[-2:], dilation)]
        x = _padded(x, edges, config["strides"], config["padding"])
        bias = self.weights["bias"] if config.get("use_bias", True) else None
        x = functional.conv2d(x, kernel, bias, config["strides"], dilation=dilation, groups=config.get("groups", 1))
        return _activation(config)(x)

    def Dense(self, x):
        bias = self.weights["bias"] if self.config.get("use_bias", True) else None
        return _activation(self.config)(functional.linear(x, self.weights["kernel"].t(), bias))

    def BatchNormalization(self, x):
        mean, variance = self.weights["moving_mean"], self.weights["moving_variance"]
        return functional.batch_norm(x, mean, variance, *self._scale_and_shift(), eps=self.config["epsilon"])

    def InstanceNormalization(self, x):
        """Normalise groups of channels.

        For single channels of pictures torch's own is not used: on channels-last tensors it subtracts squares, which loses digits where
        means are large beside deviations.
        """
        groups, epsilon = self.config["groups"], self.config["epsilon"]
        if x.ndim == 4 and (groups == -1 or groups >= x.shape[1]):
            return instance_norm(x, *self._scale_and_shift(), epsilon)
        return functional.group_norm(x.contiguous(), groups, *self._scale_and_shift(), epsilon)

    GroupNormalization = InstanceNormalization

    def _scale_and_shift(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        scale, shift = (self.weights[name] if self.config.get(used, True) else None for used, name in NORM_WEIGHTS.items())
        return scale, shift

    def AdaIN(self, x, vector):
        scale, shift = (functional.linear(vector, self.weights[f"{name}/kernel"].t(), self.weights[f"{name}/bias"])[..., None, None]
                        for name in dense_names(self.weights))
        return torch.addcmul(shift, x, scale)

    def AdaptiveAttention(self, mask, target, source):
        return torch.lerp(target, source, mask)

    def LeakyReLU(self, x):
        return functional.leaky_relu(x, self.config.get("alpha", self.config.get("negative_slope", .3)))

    def ReLU(self, x):
        limit = self.config.get("max_value")
        return functional.relu(x) if limit is None else x.clamp(0, limit)

    def PReLU(self, x):
        alpha = self.weights["alpha"]
        return torch.where(x >= 0, x, x * (alpha.permute(2, 0, 1) if alpha.ndim == 3 else alpha))

    def Activation(self, x):
        return _activation(self.config)(x)

    def Add(self, *inputs):
        return sum(inputs[1:], inputs[0])

    def Subtract(self, a, b):
        return a - b

    def Multiply(self, *inputs):
        product = inputs[0]
        for x in inputs[1:]:
            product = product * x
        return product

    def Concatenate(self, *inputs):
        if self.config.get("axis", -1) not in (-1, inputs[0].ndim - 1):
            raise FaceLoomError("The Keras model concatenates along height or width, which FaceLoom does not support.")
        return torch.cat(inputs, 1)

    def AveragePooling2D(self, x):
        edges, strides = self.config["pool_size"], self.config["strides"]
        if self.config["padding"] == "same":
            ones = _padded(torch.ones_like(x[:1, :1]), edges, strides, "same")
            return functional.avg_pool2d(_padded(x, edges, strides, "same"), edges, strides) / functional.avg_pool2d(ones, edges, strides)
        return functional.avg_pool2d(x, edges, strides)

    def MaxPooling2D(self, x):
        edges, strides = self.config["pool_size"], self.config["strides"]
        return functional.max_pool2d(_padded(x, edges, strides, self.config["padding"], float("-inf")), edges, strides)

    def GlobalAveragePooling2D(self, x):
        return x.mean((2, 3))

    def ZeroPadding2D(self, x):
        (top, bottom), (left, right) = self.config["padding"]
        return functional.pad(x, (left, right, top, bottom))

    def UpSampling2D(self, x):
        mode = self.config.get("interpolation", "nearest")
        options = {"align_corners": False} if mode == "bilinear" else {}
        return functional.interpolate(x, scale_factor=tuple(map(float, self.config["size"])), mode=mode, **options)

    def PixelShuffler(self, x):
        """Enlarge as faceswap's sub-pixel layer: channels are ordered row, column, channel, unlike those of torch's ``pixel_shuffle``."""
        rows, columns = self.config["size"]
        count, channels, height, width = x.shape
        inner = channels // (rows * columns)
        x = x.reshape(count, rows, columns, inner, height, width)
        return x.permute(0, 3, 4, 1, 5, 2).reshape(count, inner, height * rows, width * columns)

    def Flatten(self, x):
        return x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x

    def Reshape(self, x):
        shape = self.config["target_shape"]
        x = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
        x = x.reshape(len(x), *shape)
        return x.permute(0, 3, 1, 2) if x.ndim == 4 else x

    def Dropout(self, x):
        return x

    InputLayer = SpatialDropout2D = GaussianNoise = Dropout

    def TFOpLambda(self, *inputs):
        """Compute an operator that was written as such (``a * b``)."""
        return OPERATORS[self.config["function"]](*inputs)


def dense_names(weights: Iterable[str]) -> list[str]:
    """Find the names of an AdaIN layer's two dense layers, scale first, among its weights' names; some files number them through."""
    names = dict.fromkeys(name.rsplit("/", 1)[0] for name in weights if "/" in name)
    return sorted(names, key=lambda name: (len(name), name))


def instance_norm(x: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None, epsilon: float) -> torch.Tensor:
    """Normalise ``[N, C, H, W]`` per picture and channel to mean 0 and variance 1, then scale and shift; statistics are float32."""
    centred = x - x.mean((2, 3), keepdim=True, dtype=torch.float32).to(x.dtype)
    variance = centred.float().square().mean((2, 3), keepdim=True)
    factor = torch.rsqrt(variance + epsilon)
    factor = factor if scale is None else factor * scale[:, None, None]
    centred.mul_(factor.to(x.dtype))
    return centred if shift is None else centred.add_(shift[:, None, None])


def shapes_for(kind: str, config: Mapping[str, Any], inputs: Sequence[torch.Tensor], dense: Sequence[str] = ()) -> dict[str, list[int]]:
    """List the shapes of the weights of a layer of class ``kind`` for ``inputs``. dense: the names of an AdaIN layer's dense layers."""
    channels = inputs[0].shape[1]
    if kind in ("Conv2D", "Dense"):
        kernel = ([*config["kernel_size"], channels // config.get("groups", 1), config["filters"]] if kind == "Conv2D"
                  else [channels, config["units"]])
        return {"kernel": kernel} | ({"bias": kernel[-1:]} if config.get("use_bias", True) else {})
    if kind == "AdaIN":
        shapes = {"kernel": [inputs[1].shape[1], channels], "bias": [channels]}
        return {f"{part}/{weight}": shape for part in dense or ("dense", "dense_1") for weight, shape in shapes.items()}
    if kind == "PReLU":
        shared = config.get("shared_axes") or ()
        shape = [*inputs[0].shape[2:], channels]
        return {"alpha": [1 if axis in shared else edge for axis, edge in enumerate(shape, 1)]}
    if kind in ("BatchNormalization", "InstanceNormalization", "GroupNormalization"):
        names = [name for used, name in NORM_WEIGHTS.items() if config.get(used, True)]
        names += ["moving_mean", "moving_variance"] if kind == "BatchNormalization" else []
        return {name: [channels] for name in names}
    return {}

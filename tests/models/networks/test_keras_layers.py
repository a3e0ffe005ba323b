"""Keras layers one by one, beside their definitions written out in numpy and in Keras' own layout (batch, height, width, channels)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.networks.keras_net import KerasNet


def layer(kind, name, sources, **config):
    return {"class_name": kind, "name": name, "config": {"name": name} | config,
            "inbound_nodes": [[[source, 0, 0, {}] for source in sources]] if sources else []}


def graph_of(layers, inputs, outputs):
    return {"class_name": "Functional", "config": {"layers": layers, "input_layers": [[name, 0, 0] for name in inputs],
                                                   "output_layers": [[name, 0, 0] for name in outputs]}}


def one(kind, inputs, weights=None, **config):
    """What one layer answers, in Keras' layout."""
    names = [f"input_{i}" for i in range(len(inputs))]
    graph = graph_of([*(layer("InputLayer", name, []) for name in names), layer(kind, "it", names, **config)], names, ["it"])
    net = KerasNet(graph, {f"it/{key}": torch.from_numpy(np.asarray(value, np.float32)) for key, value in (weights or {}).items()})
    return last(net(*(first(x) for x in inputs)))


def first(x):
    x = torch.from_numpy(np.asarray(x, np.float32))
    return x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x


def last(x):
    return x.permute(0, 2, 3, 1).numpy() if x.ndim == 4 else x.numpy()


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def windows(x, edges, strides, padding, dilation=(1, 1), fill=np.nan):
    """``[rows, columns]`` of ``[N, kh, kw, C]``: what a window at each answer's place sees, ``fill`` outside the picture.

    TensorFlow's rule: ceil(size / stride) places for "same", and of the pixels they lack the odd one is after the picture's end.
    """
    before, count = [], []
    for size, edge, stride, step in zip(x.shape[1:3], edges, strides, dilation):
        span = (edge - 1) * step + 1
        count.append(-(-size // stride) if padding == "same" else (size - span) // stride + 1)
        before.append(max((count[-1] - 1) * stride + span - size, 0) // 2 if padding == "same" else 0)
    out = np.full((*count, len(x), *edges, x.shape[3]), fill, np.float64)
    for row, column, i, j in np.ndindex(*count, *edges):
        y, z = row * strides[0] + i * dilation[0] - before[0], column * strides[1] + j * dilation[1] - before[1]
        if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
            out[row, column, :, i, j] = x[:, y, z]
    return out


@pytest.mark.parametrize("size", [(6, 6), (7, 5), (8, 9)])
@pytest.mark.parametrize("edges, strides, padding, dilation", [
    ((3, 3), (1, 1), "same", (1, 1)), ((3, 3), (2, 2), "same", (1, 1)), ((5, 5), (2, 2), "same", (1, 1)), ((5, 3), (3, 2), "same", (1, 1)),
    ((2, 2), (1, 1), "same", (1, 1)), ((1, 1), (2, 2), "same", (1, 1)), ((3, 3), (2, 2), "valid", (1, 1)), ((3, 3), (1, 1), "same", (2, 2)),
])
def test_convolution(size, edges, strides, padding, dilation):
    x, kernel, bias = values(2, *size, 3), values(*edges, 3, 4, seed=1), values(4, seed=2)
    seen = windows(x, edges, strides, padding, dilation, 0)
    want = np.einsum("yxnijc,ijco->nyxo", seen, kernel) + bias
    got = one("Conv2D", [x], {"kernel": kernel, "bias": bias}, kernel_size=edges, strides=list(strides), padding=padding,
              dilation_rate=list(dilation), filters=4)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_the_odd_pixel_of_same_padding_is_after_the_picture():
    """A ramp of six under a window of five and a stride of two: one pixel before, two after."""
    x = np.arange(6.).reshape(1, 1, 6, 1).repeat(6, 1)
    got = one("Conv2D", [x], {"kernel": np.ones((1, 5, 1, 1))}, kernel_size=[1, 5], strides=[1, 2], padding="same", use_bias=False)
    assert got[0, 0, :, 0].tolist() == [0 + 1 + 2 + 3, 1 + 2 + 3 + 4 + 5, 3 + 4 + 5]


def test_groups_and_activation_of_a_convolution():
    x, kernel = values(1, 4, 4, 4), values(1, 1, 2, 6, seed=1)
    want = np.concatenate([x[..., :2] @ kernel[0, 0, :, :3], x[..., 2:] @ kernel[0, 0, :, 3:]], -1)
    got = one("Conv2D", [x], {"kernel": kernel}, kernel_size=[1, 1], strides=[1, 1], padding="valid", groups=2, use_bias=False,
              activation="sigmoid")
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-want)), atol=1e-6)


@pytest.mark.parametrize("size", [(4, 4), (5, 7)])
@pytest.mark.parametrize("edges, strides, padding", [((2, 2), (2, 2), "valid"), ((2, 2), (2, 2), "same"), ((3, 3), (2, 2), "same")])
def test_pools_leave_what_is_outside_the_picture_out(size, edges, strides, padding):
    x = values(2, *size, 3) - 5  # a border of zeros would win the maximum
    seen = windows(x, edges, strides, padding)
    for kind, of in (("MaxPooling2D", np.nanmax), ("AveragePooling2D", np.nanmean)):
        got = one(kind, [x], pool_size=list(edges), strides=list(strides), padding=padding)
        np.testing.assert_allclose(got, of(seen, (3, 4)).transpose(2, 0, 1, 3), atol=1e-5)


def test_dense():
    x, kernel, bias = values(3, 5), values(5, 2, seed=1), values(2, seed=2)
    got = one("Dense", [x], {"kernel": kernel, "bias": bias}, units=2, activation="relu")
    np.testing.assert_allclose(got, np.maximum(x @ kernel + bias, 0), atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 3, 6), (2, 6)])
@pytest.mark.parametrize("epsilon", [1e-3, 1.001e-5])
def test_batch_norm_uses_the_stored_statistics(shape, epsilon):
    x, gamma, beta, mean = values(*shape), values(6, seed=1), values(6, seed=2), values(6, seed=3)
    variance = np.linspace(1e-5, .01, 6)  # small, so that epsilon shows
    got = one("BatchNormalization", [x], {"gamma": gamma, "beta": beta, "moving_mean": mean, "moving_variance": variance},
              epsilon=epsilon)
    np.testing.assert_allclose(got, (x - mean) / np.sqrt(variance + epsilon) * gamma + beta, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
def test_instance_norm_is_per_picture_and_channel_with_the_biased_variance(epsilon):
    x = values(2, 3, 2, 4) * .03 + values(1, 1, 1, 4, seed=5)
    gamma, beta = values(4, seed=1), values(4, seed=2)
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    got = one("Addons>InstanceNormalization", [x], {"gamma": gamma, "beta": beta}, groups=4, epsilon=epsilon)
    np.testing.assert_allclose(got, (x - mean) / np.sqrt(variance + epsilon) * gamma + beta, atol=2e-4)


def test_group_norm_takes_neighbouring_channels_together():
    x = values(2, 3, 3, 4)
    pairs = x.reshape(2, 3, 3, 2, 2)
    want = (pairs - pairs.mean((1, 2, 4), keepdims=True)) / np.sqrt(pairs.var((1, 2, 4), keepdims=True) + .001)
    got = one("Addons>GroupNormalization", [x], groups=2, epsilon=.001, scale=False, center=False)
    np.testing.assert_allclose(got, want.reshape(x.shape), atol=1e-5)


@pytest.mark.parametrize("names", [("dense", "dense_1"), ("dense_9", "dense_10")])
def test_ada_in_scales_by_the_first_dense_layer_and_shifts_by_the_second(names):
    x, vector = values(2, 3, 3, 4), values(2, 5, seed=1)
    scale, shift = values(5, 4, seed=2), values(5, 4, seed=3)
    weights = {f"{names[1]}/kernel": shift, f"{names[1]}/bias": np.full(4, 7), f"{names[0]}/kernel": scale, f"{names[0]}/bias": np.ones(4)}
    want = x * (vector @ scale + 1)[:, None, None] + (vector @ shift + 7)[:, None, None]
    np.testing.assert_allclose(one("AdaIN", [x, vector], weights), want, atol=1e-4)


def test_attention_shows_the_source_where_the_mask_is_one():
    mask, target, source = (values(1, 2, 2, 3, seed=seed) for seed in range(3))
    got = one("AdaptiveAttention", [mask, target, source])
    np.testing.assert_allclose(got, (1 - mask) * target + mask * source, atol=1e-6)


def test_bilinear_enlargement_is_about_pixel_centres():
    x = np.array([0., 4, 8]).reshape(1, 1, 3, 1)
    got = one("UpSampling2D", [x], size=[2, 2], interpolation="bilinear")
    assert got.shape == (1, 2, 6, 1)
    assert got[0, 0, :, 0].tolist() == got[0, 1, :, 0].tolist() == [0, 1, 3, 5, 7, 8]


def test_nearest_enlargement_repeats_pixels():
    x = values(1, 2, 3, 2)
    assert np.array_equal(one("UpSampling2D", [x], size=[2, 3], interpolation="nearest"), x.repeat(2, 1).repeat(3, 2))


def test_zero_padding_by_side():
    x = values(1, 2, 2, 1)
    assert np.array_equal(one("ZeroPadding2D", [x], padding=[[1, 0], [2, 3]]), np.pad(x, ((0, 0), (1, 0), (2, 3), (0, 0))))


def test_flatten_and_reshape_count_channels_fastest():
    x = values(2, 3, 4, 5)
    assert np.array_equal(one("Flatten", [x]), x.reshape(2, -1))
    assert np.array_equal(one("Reshape", [x], target_shape=[4, 5, 3]), x.reshape(2, 4, 5, 3))
    assert np.array_equal(one("Reshape", [x.reshape(2, -1)], target_shape=[3, 4, 5]), x)


@pytest.mark.parametrize("config, slope", [({"alpha": .2}, .2), ({"negative_slope": .1}, .1), ({}, .3)])
def test_leaky_relu(config, slope):
    x = values(2, 6)
    np.testing.assert_allclose(one("LeakyReLU", [x], **config), np.where(x > 0, x, slope * x), atol=1e-6)


def test_prelu_has_a_slope_for_every_place():
    x, alpha = values(2, 2, 3, 4), values(2, 3, 4, seed=1)
    np.testing.assert_allclose(one("PReLU", [x], {"alpha": alpha}), np.where(x > 0, x, alpha * x), atol=1e-6)


def test_layers_of_several_inputs():
    a, b, c = (values(1, 2, 2, 3, seed=seed) for seed in range(3))
    np.testing.assert_allclose(one("Add", [a, b, c]), a + b + c, atol=1e-6)
    np.testing.assert_allclose(one("Multiply", [a, b, c]), a * b * c, atol=1e-6)
    assert np.array_equal(one("Subtract", [a, b]), a - b)
    assert np.array_equal(one("Concatenate", [a, b], axis=-1), np.concatenate([a, b], -1))
    np.testing.assert_allclose(one("GlobalAveragePooling2D", [a]), a.mean((1, 2)), atol=1e-6)


def test_dropout_is_off():
    x = values(4, 5)
    assert np.array_equal(one("Dropout", [x], rate=.9), x)


@pytest.mark.parametrize("name, of", [("relu", lambda x: np.maximum(x, 0)), ("tanh", np.tanh), ("linear", lambda x: x),
                                      ("sigmoid", lambda x: 1 / (1 + np.exp(-x))), ("swish", lambda x: x / (1 + np.exp(-x)))])
def test_activations(name, of):
    x = values(2, 3)
    np.testing.assert_allclose(one("Activation", [x], activation=name), of(x), atol=1e-6)


def test_unknown_layers_and_activations_are_named():
    layers = [layer("InputLayer", "a", []), layer("Lambda", "b", ["a"]), layer("Custom>FPN", "c", ["b"]), layer("Lambda", "d", ["c"])]
    with pytest.raises(FaceLoomError, match="layers FaceLoom does not know: FPN, Lambda"):
        KerasNet(graph_of(layers, ["a"], ["d"]), {})
    with pytest.raises(FaceLoomError, match="activation gelu"):
        one("Activation", [values(1, 2)], activation="gelu")


def test_layers_in_any_order_and_called_twice():
    twice = layer("Dense", "d", ["a"], units=2, use_bias=False)
    twice["inbound_nodes"].append([["b", 0, 0, {}]])
    total = layer("Subtract", "s", [])
    total["inbound_nodes"] = [[["d", 0, 0, {}], ["d", 1, 0, {}]]]
    graph = graph_of([total, twice, layer("InputLayer", "b", []), layer("InputLayer", "a", [])], ["a", "b"], ["s"])
    a, b, kernel = values(3, 4), values(3, 4, seed=1), values(4, 2, seed=2)
    net = KerasNet(graph, {"d/kernel": torch.from_numpy(kernel)})
    np.testing.assert_allclose(net(torch.from_numpy(a), torch.from_numpy(b)).numpy(), (a - b) @ kernel, atol=1e-5)


def test_a_model_in_the_model_and_several_answers():
    inner = graph_of([layer("InputLayer", "x", []), layer("Dense", "d", ["x"], units=2, use_bias=False)], ["x"], ["d"])["config"]
    nest = {"class_name": "Functional", "name": "nest", "config": {"name": "nest"} | inner, "inbound_nodes": [[["a", 0, 0, {}]]]}
    double = layer("Add", "twice", [])
    double["inbound_nodes"] = [[["nest", 1, 0, {}], ["nest", 1, 0, {}]]]
    graph = graph_of([layer("InputLayer", "a", []), nest, double], ["a"], ["twice"])
    graph["config"]["output_layers"] = [["twice", 0, 0], ["nest", 1, 0]]
    a, kernel = values(3, 4), values(4, 2, seed=2)
    twice, single = KerasNet(graph, {"d/kernel": torch.from_numpy(kernel)})(torch.from_numpy(a))
    np.testing.assert_allclose(single.numpy(), a @ kernel, atol=1e-5)
    np.testing.assert_allclose(twice.numpy(), 2 * a @ kernel, atol=1e-5)


def test_a_graph_that_hangs_on_nothing_is_damaged():
    graph = graph_of([layer("InputLayer", "a", []), layer("Add", "b", ["a", "lost"])], ["a"], ["b"])
    with pytest.raises(FaceLoomError, match="does not hang together"):
        KerasNet(graph, {})(torch.zeros(1, 2))


@pytest.mark.parametrize("count", [0, 2])
def test_pixels_are_shuffled_as_faceswap_does(count):
    """Channel ``(i · columns + j) · inner + c`` of a pixel is channel c, i rows down and j columns right in its block."""
    x = values(count, 3, 4, 2 * 3 * 5)
    got = one("PixelShuffler", [x], size=[2, 3])
    assert got.shape == (count, 6, 12, 5)
    for i, j, c in np.ndindex(2, 3, 5):
        np.testing.assert_array_equal(got[:, i::2, j::3, c], x[..., (i * 3 + j) * 5 + c])

"""The short cuts of FaceShifter's generator say what the long ways say."""

from __future__ import annotations

import pytest
import torch
from faceloom.models.networks import FEW_PIXELS, without_onednn_for_small_maps
from faceloom.models.networks.aei import AADLayer, normalize_instances, upsample_2x
from torch.nn import functional


@pytest.mark.parametrize("count", [1, 3])
def test_normalised_is_instance_normalisation(count):
    h = (torch.randn(count, 6, 9, 7) * 3 + 5).contiguous(memory_format=torch.channels_last)
    kept = h.clone()
    assert torch.allclose(normalize_instances(h), functional.instance_norm(h), atol=1e-5)
    assert torch.equal(h, kept)


def test_blend_between_the_attributes_and_the_identity():
    torch.manual_seed(0)
    blend, h, attributes, identity = AADLayer(5, 4, 8), torch.randn(2, 5, 16, 16), torch.randn(2, 4, 8, 8), torch.randn(2, 8)
    with torch.inference_mode():
        whole = upsample_2x(attributes)
        by_target = blend.conv1(whole) * h + blend.conv2(whole)
        by_source = blend.fc1(identity)[..., None, None] * h + blend.fc2(identity)[..., None, None]
        mask = torch.sigmoid(blend.conv_h(h))
        want = (1 - mask) * by_target + mask * by_source
        for given in (attributes, whole):
            assert torch.allclose(blend(h, given, identity), want, atol=1e-5)


@pytest.mark.parametrize("edge", [8, 9])
def test_kernels_stay_as_they_lie_for_few_pixels_only(edge):
    before = torch.backends.mkldnn.enabled
    with pytest.raises(ZeroDivisionError), without_onednn_for_small_maps(torch.zeros(1, 3, edge, edge)):
        assert torch.backends.mkldnn.enabled == (before and edge * edge > FEW_PIXELS)
        raise ZeroDivisionError
    assert torch.backends.mkldnn.enabled == before


def test_tracing_goes_through():
    """An export traces sizes as tensors, which torch's switches do not take."""
    class Small(torch.nn.Conv2d):
        def forward(self, x):
            with without_onednn_for_small_maps(x):
                return super().forward(x)

    net, x = Small(3, 2, 1), torch.rand(1, 3, 4, 4)
    assert torch.equal(torch.jit.trace(net, x)(x), net(x)) and torch.backends.mkldnn.enabled

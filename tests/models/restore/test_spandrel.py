"""Real restoration networks, with weights from a fixed seed, through spandrel and through ONNX."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

try:
    import spandrel
except Exception as error:  # spandrel needs a torchvision that fits torch; one that does not raises more than ImportError
    pytest.skip(f"spandrel cannot be imported: {error}", allow_module_level=True)
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from faceloom.models.restore import restore_crops
from faceloom.models.restore.load import load_restorer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread"),
              pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")]


class Signed(torch.nn.Module):
    """What the public ONNX exports hold: the bare network, -1..1 in and out."""

    def __init__(self, net: torch.nn.Module, **how) -> None:
        super().__init__()
        self.net, self.how = net, how

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.net(pictures, **self.how)[0]


def both(net: torch.nn.Module, file: str, onnx_file: str, folder: Path, **how):
    """The restorers from a checkpoint and from an export of the same network."""
    net = net.eval()
    torch.save({"params_ema": net.state_dict()}, folder / file)
    torch.onnx.export(Signed(net, **how), (torch.zeros(1, 3, 512, 512),), str(folder / onnx_file), dynamo=False, input_names=["input"],
                      output_names=["output"], opset_version=17)
    return load_restorer(folder / file), load_restorer(folder / onnx_file)


def crops_of(photo: torch.Tensor) -> torch.Tensor:
    return torch.stack([photo[0, 20:276, 100:356], photo[0, 120:376, 130:386]])


def agree(ours, theirs, crops: torch.Tensor) -> None:
    first, second = ours.restore(crops, .5), theirs.restore(crops, .5)
    assert first.shape == second.shape == (2, 512, 512, 3) and float(first.std()) > .01
    assert (first - second).abs().max() < 2e-3
    assert torch.allclose(ours.restore(crops[1:], .5), first[1:], atol=1e-4), "two together are not as one by one"
    assert torch.equal(ours.restore(crops, .5), first), "not deterministic"
    assert (restore_crops(crops, restorer=ours) - restore_crops(crops, restorer=theirs)).abs().max() < 2e-3


def test_a_small_restoreformer(hopper, tmp_path):
    from spandrel.architectures.RestoreFormer import RestoreFormer

    torch.manual_seed(0)
    net = RestoreFormer(n_embed=64, embed_dim=32, z_channels=32, ch=32, ch_mult=(1, 1, 1, 2, 2, 2), num_res_blocks=1)
    agree(*both(net, "RestoreFormer.pth", "restoreformer_plus_plus.onnx", tmp_path), crops_of(hopper))


def plus_plus(net: torch.nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """RestoreFormer++ as its authors run it: what is rebuilt at 32 pixels attends to what the encoder saw at that size."""
    seen, decoder = net.encoder(pictures), net.decoder
    h = decoder.conv_in(net.post_quant_conv(net.quantize(net.quant_conv(seen["out"]))[0]))
    h = decoder.mid.block_2(decoder.mid.attn_1(decoder.mid.block_1(h, None), seen["mid_atten"]), None)
    for level in reversed(range(6)):
        for i, block in enumerate(decoder.up[level].block):
            h = block(h, None)
            if level >= 4:
                h = decoder.up[level].attn[i](h, seen["block_5_atten" if level == 5 else "block_4"])
        h = decoder.up[level].upsample(h) if level else h
    return decoder.conv_out(torch.nn.functional.silu(decoder.norm_out(h)))


@pytest.mark.parametrize("version", ["RestoreFormer++.ckpt", "RestoreFormer.ckpt"])
def test_the_authors_restoreformer_checkpoints(version, hopper, tmp_path):
    """They wrap the network in its training, and spandrel knows only the first version."""
    from spandrel.architectures.RestoreFormer import RestoreFormer

    torch.manual_seed(0)
    more = version == "RestoreFormer++.ckpt"
    net = RestoreFormer(n_embed=64, embed_dim=32, z_channels=32, ch=32, ch_mult=(1, 1, 1, 2, 2, 2), num_res_blocks=1,
                        attn_resolutions=(16, 32) if more else (16,), head_size=4 if more else 8).eval()
    if more:
        net.encoder.down[4].attn = torch.nn.ModuleList()
    weights = {f"vqvae.{name}": value for name, value in net.state_dict().items()}
    training = {"vqvae.quantize.utility_counter": torch.zeros(64), "loss.discriminator.main.0.weight": torch.zeros(3)}
    torch.save({"epoch": 3, "state_dict": weights | training}, tmp_path / version)
    crops = torch.nn.functional.interpolate(crops_of(hopper).movedim(-1, 1), size=(512, 512)).movedim(1, -1)
    with torch.no_grad():
        pictures = crops.movedim(-1, 1) * 2 - 1
        wanted = ((plus_plus(net, pictures) if more else net(pictures)[0]) / 2 + .5).movedim(1, -1).clamp(0, 1)
    assert float(wanted.std()) > .01
    assert (load_restorer(tmp_path / version).restore(crops, .5) - wanted).abs().max() < 2e-3


def test_gfpgan(hopper, tmp_path):
    from spandrel.architectures.GFPGAN import GFPGAN

    torch.manual_seed(0)
    net = GFPGAN(out_size=512, num_style_feat=512, channel_multiplier=2, num_mlp=8, input_is_latent=True, different_w=True, narrow=1,
                 sft_half=True, decoder_load_path=None, fix_decoder=False)
    ours, theirs = both(net, "GFPGANv1.4.pth", "gfpgan_1.4.onnx", tmp_path, return_rgb=False, randomize_noise=False)
    assert isinstance(ours.descriptor, spandrel.ImageModelDescriptor)
    agree(ours, theirs, crops_of(hopper))

"""LoRA layers and DreamBooth on small models, and the flat lists of Face Swap via Diffusion as ordinary files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from faceloom.models.diffusion.dreambooth import DreamBoothSettings, center_squares, train_dreambooth
from faceloom.models.diffusion.lora import LoraLayers, read_flat_lora, text_encoder_linear_layers, unet_linear_layers
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.checkpoints import load_weights
from faceloom.models.interop.convert import convert
from safetensors.torch import save_file
from torch import nn


class Small(nn.Module):
    """Latents ``[N, 4, 4, 4]`` and tokens ``[N, 2, 8]`` to a guess at the clean latents."""

    def __init__(self) -> None:
        super().__init__()
        self.told, self.out = nn.Linear(16, 64), nn.Linear(64, 64)

    def sigma(self, share: float) -> float:
        return 10 ** (1 - 2 * share)

    def noised(self, latents, noise, sigma):
        return latents + noise * sigma[:, None, None, None]

    def clean(self, noisy, sigma, tokens):
        return self.out(torch.tanh(self.told(tokens.flatten(1)))).reshape(noisy.shape)


@pytest.fixture()
def small():
    torch.manual_seed(0)
    net = Small().requires_grad_(False)
    return net, LoraLayers({"lora_unet_told": net.told, "lora_unet_out": net.out}, 4, seed=1)


def trained(small, tokens, photo, others, **settings):
    net, lora = small
    return train_dreambooth(net, lora, lambda: tokens, photo, others, DreamBoothSettings(**({"steps": 60, "rate": 2e-2} | settings)))


class TestLayers:
    def test_a_new_pair_changes_nothing_and_a_trained_one_only_while_attached(self, small):
        net, lora = small
        x = torch.rand(2, 64)
        plain = net.out(x)
        up, down = lora.pairs["lora_unet_out"]
        assert float(down.detach().std()) == pytest.approx(1 / 4, rel=.15) and float(up.detach().abs().max()) == 0
        with lora.attached():
            assert torch.equal(net.out(x), plain)
            with torch.no_grad():
                up += 1
            assert torch.allclose(net.out(x), x @ (net.out.weight + up @ down).T + net.out.bias, atol=1e-5)
        assert torch.equal(net.out(x), plain)

    def test_the_files_keys(self, small):
        weights = small[1].weights()
        assert {key: tuple(value.shape) for key, value in weights.items()} == {
            "lora_unet_told.lora_up.weight": (64, 4), "lora_unet_told.lora_down.weight": (4, 16),
            "lora_unet_out.lora_up.weight": (64, 4), "lora_unet_out.lora_down.weight": (4, 64)}


class TestTraining:
    def test_the_person_is_learned_and_the_others_are_kept(self, small):
        """With others beside it the class prompt still means what it meant; without, it drifts towards the person."""
        net, _ = small
        person, anybody = torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(2)) * .7
        tokens = torch.stack([person, person * .6 + anybody * .4])
        photo = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(3))
        before = net.clean(photo, None, tokens[1:])
        apart = {}
        for prior in (True, False):
            lora = LoraLayers({"told": net.told, "out": net.out}, 4, seed=1)
            trained((net, lora), tokens, photo, before if prior else None)
            with lora.attached(), torch.no_grad():
                learned = net.clean(photo, None, tokens[:1])
                apart[prior] = float((net.clean(photo, None, tokens[1:]) - before).abs().mean())
            assert float((learned - photo).abs().mean()) < .25 * float((net.clean(photo, None, tokens[:1]) - photo).abs().mean())
        assert apart[True] < .5 * apart[False], apart

    def test_the_loss_is_that_of_the_noise(self, small):
        """A denoiser that is off by d at noise level s is off by d / s in the noise."""
        net, _ = small
        photo, tokens = torch.zeros(1, 4, 4, 4), torch.rand(2, 2, 8)
        off = net.clean(photo.expand(2, -1, -1, -1), None, tokens)
        (loss,) = trained(small, tokens, photo, photo, steps=1, prior_weight=.5)
        chance = torch.Generator().manual_seed(0)
        torch.randint(1, (1,), generator=chance)  # which of the others
        shares = torch.rand(2, generator=chance).tolist()
        each = [float((off[i] / net.sigma(share)).square().mean()) for i, share in enumerate(shares)]
        assert loss == pytest.approx(each[0] + .5 * each[1], rel=1e-4)

    def test_the_text_encoder_learns_too(self, small):
        net, lora = small
        words = nn.Linear(8, 8).requires_grad_(False)
        text = LoraLayers({"lora_te_words": words}, 2, seed=1)
        start = torch.rand(2, 2, 8)
        settings = DreamBoothSettings(steps=3, rate=0.0, text_rate=1e-2)
        train_dreambooth(net, lora, lambda: words(start), torch.rand(1, 4, 4, 4), None, settings, text)
        assert all(float(up.detach().abs().max()) == 0 for up, _ in lora.pairs.values())
        assert float(text.pairs["lora_te_words"][0].detach().abs().max()) > 0

    def test_same_seed_same_weights_progress_and_interruption(self, small):
        net, _ = small
        tokens, photo, made, seen = torch.rand(2, 2, 8), torch.rand(1, 4, 4, 4), [], []
        for seed in (1, 1, 2):
            lora = LoraLayers({"told": net.told}, 2, seed)
            settings = DreamBoothSettings(steps=4, rank=2, seed=seed)
            train_dreambooth(net, lora, lambda: tokens, photo, photo, settings, None, lambda *now: seen.append(now))
            made.append(lora.weights()["told.lora_up.weight"])
        assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2]) and seen[:4] == [(i, 4) for i in range(1, 5)]

        def stop(done, total):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_dreambooth(net, lora, lambda: tokens, photo, None, DreamBoothSettings(steps=4), None, stop)
        assert not net.told._forward_hooks

    def test_nan_is_said(self, small):
        with pytest.raises(FaceLoomError, match="NaN; use a smaller rate"):
            trained(small, torch.full((2, 2, 8), float("nan")), torch.rand(1, 4, 4, 4), None, steps=1)


def test_the_middle_square():
    photo = torch.arange(3 * 5 * 1.0).reshape(3, 5, 1).expand(3, 5, 3)
    (square,) = center_squares([photo])
    assert torch.equal(square, photo[:, 1:4])


class TestFlatLists:
    @pytest.fixture()
    def pairs(self):
        generator = torch.Generator().manual_seed(0)

        def pair(inner, outer):
            return torch.randn(outer, 4, generator=generator), torch.randn(4, inner, generator=generator)

        return {part: [pair(inner, outer) for _, inner, outer in names()]
                for part, names in (("unet", unet_linear_layers), ("text_encoder", text_encoder_linear_layers))}

    def test_a_list_becomes_an_ordinary_file(self, pairs, tmp_path):
        for part, name, first, last in (
                ("unet", "lora_weight.pt", "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
                 "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj"),
                ("text_encoder", "lora_weight.text_encoder.pt", "lora_te_text_model_encoder_layers_0_self_attn_k_proj",
                 "lora_te_text_model_encoder_layers_11_self_attn_out_proj")):
            torch.save([torch.nn.Parameter(value) for pair in pairs[part] for value in pair], tmp_path / name)
            found = load_weights(convert(tmp_path / name))
            assert len(found) == 2 * len(pairs[part])
            assert torch.equal(found[f"{first}.lora_up.weight"], pairs[part][0][0])
            assert torch.equal(found[f"{last}.lora_down.weight"], pairs[part][-1][1])

    def test_numbered_keys_become_an_ordinary_file(self, pairs, tmp_path):
        numbered = {f"{part}:{i}:{which}": value for part, each in pairs.items() for i, (up, down) in enumerate(each)
                    for which, value in (("up", up), ("down", down))}
        save_file(numbered, tmp_path / "sks.safetensors", {"unet:0:rank": "4"})
        found = load_weights(convert(tmp_path / "sks.safetensors", tmp_path / "out.safetensors"))
        assert len(found) == 2 * (144 + 48)
        assert torch.equal(found["lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight"], pairs["unet"][54][0])
        assert torch.equal(found["lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight"], pairs["text_encoder"][2][1])
        with pytest.raises(FaceLoomError, match="already there"):
            convert(tmp_path / "sks.safetensors")

    def test_another_models_list_is_refused(self, pairs, tmp_path):
        for bad in (pairs["unet"][:-1], [(down.T, up.T) for up, down in pairs["unet"]]):
            torch.save([value for pair in bad for value in pair], tmp_path / "lora.pt")
            with pytest.raises(FaceLoomError, match=r"lora\.pt is a LoRA of another model than Stable Diffusion 1\.x"):
                convert(tmp_path / "lora.pt")

    @pytest.mark.parametrize("key, value", [
        ("unet:0:up", None), ("unet:143:down", None), ("text_encoder:5:up", torch.zeros(768)), ("unet:7:down", torch.zeros(4, 320, 1, 1)),
        ("unet:9:up", torch.zeros(())), ("unet:144:up", torch.zeros(320, 4)),
    ])
    def test_numbered_keys_without_two_matrices_a_layer_are_refused(self, pairs, tmp_path, key, value):
        numbered = {f"{part}:{i}:{which}": matrix for part, each in pairs.items() for i, (up, down) in enumerate(each)
                    for which, matrix in (("up", up), ("down", down))}
        numbered.pop(key, None)
        save_file(numbered if value is None else numbered | {key: value}, tmp_path / "sks.safetensors")
        with pytest.raises(FaceLoomError, match=r"sks\.safetensors is a LoRA of another model than Stable Diffusion 1\.x"):
            convert(tmp_path / "sks.safetensors", tmp_path / "out.safetensors")

    @pytest.mark.parametrize("extra", ["unet:0:rank", "note"])
    def test_other_keys_beside_numbered_ones_make_no_flat_list(self, pairs, extra):
        data = {"unet:0:up": torch.zeros(320, 4), "unet:0:down": torch.zeros(4, 320), extra: torch.zeros(1)}
        assert read_flat_lora(data, Path("sks.safetensors")) is None

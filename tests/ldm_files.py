"""Original Stable Diffusion checkpoints in any size, made here: their keys and shapes follow from latent diffusion's own modules."""

from __future__ import annotations

import torch
from faceloom.models.networks.ldm import UNET_PREFIX, VAE_PREFIX, UNetForm, VaeForm

Shapes = dict[str, tuple[int, ...]]


def unet_weights(form: UNetForm, seed: int = 0) -> dict[str, torch.Tensor]:
    return filled({UNET_PREFIX + key: shape for key, shape in unet_shapes(form).items()}, seed)


def vae_weights(form: VaeForm, seed: int = 1) -> dict[str, torch.Tensor]:
    return filled({VAE_PREFIX + key: shape for key, shape in vae_shapes(form).items()}, seed)


def filled(shapes: Shapes, seed: int) -> dict[str, torch.Tensor]:
    """Random values that keep activations of size one."""
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) / max(1, torch.Size(shape[1:]).numel()) ** 0.5 if len(shape) > 1
            else torch.full(shape, float(key.endswith("weight"))) for key, shape in shapes.items()}


def unet_shapes(form: UNetForm) -> Shapes:
    wide, embedded = form.channels, 4 * form.channels
    shapes = layer("time_embed.0", embedded, wide) | layer("time_embed.2", embedded, embedded)
    shapes |= layer("input_blocks.0.0", wide, form.in_channels, 3, 3)
    inner, number, skipped = wide, 1, [wide]
    for level, times in enumerate(form.multipliers):
        for _ in range(form.blocks):
            shapes |= unet_block(f"input_blocks.{number}", form, inner, wide * times, form.attention[level])
            inner, number, skipped = wide * times, number + 1, [*skipped, wide * times]
        if level + 1 < len(form.multipliers):
            shapes |= layer(f"input_blocks.{number}.0.op", inner, inner, 3, 3)
            number, skipped = number + 1, [*skipped, inner]
    shapes |= residual("middle_block.0", form, inner, inner) | transformer("middle_block.1", form, inner)
    shapes |= residual("middle_block.2", form, inner, inner)
    number = 0
    for level, times in reversed(list(enumerate(form.multipliers))):
        for block in range(form.blocks + 1):
            shapes |= unet_block(f"output_blocks.{number}", form, inner + skipped.pop(), wide * times, form.attention[level])
            inner = wide * times
            if level and block == form.blocks:
                shapes |= layer(f"output_blocks.{number}.{1 + form.attention[level]}.conv", inner, inner, 3, 3)
            number += 1
    return shapes | layer("out.0", inner) | layer("out.2", form.out_channels, inner, 3, 3)


def unet_block(name: str, form: UNetForm, inner: int, outer: int, attends: bool) -> Shapes:
    return residual(f"{name}.0", form, inner, outer) | (transformer(f"{name}.1", form, outer) if attends else {})


def residual(name: str, form: UNetForm, inner: int, outer: int) -> Shapes:
    shapes = layer(f"{name}.in_layers.0", inner) | layer(f"{name}.in_layers.2", outer, inner, 3, 3)
    shapes |= layer(f"{name}.emb_layers.1", outer, 4 * form.channels)
    shapes |= layer(f"{name}.out_layers.0", outer) | layer(f"{name}.out_layers.3", outer, outer, 3, 3)
    return shapes | (layer(f"{name}.skip_connection", outer, inner, 1, 1) if inner != outer else {})


def transformer(name: str, form: UNetForm, wide: int) -> Shapes:
    shapes = layer(f"{name}.norm", wide) | layer(f"{name}.proj_in", wide, wide, 1, 1) | layer(f"{name}.proj_out", wide, wide, 1, 1)
    block = f"{name}.transformer_blocks.0"
    for attention, seen in (("attn1", wide), ("attn2", form.context)):
        shapes |= {f"{block}.{attention}.to_q.weight": (wide, wide), f"{block}.{attention}.to_k.weight": (wide, seen),
                   f"{block}.{attention}.to_v.weight": (wide, seen)} | layer(f"{block}.{attention}.to_out.0", wide, wide)
    shapes |= layer(f"{block}.ff.net.0.proj", 8 * wide, wide) | layer(f"{block}.ff.net.2", wide, 4 * wide)
    return shapes | layer(f"{block}.norm1", wide) | layer(f"{block}.norm2", wide) | layer(f"{block}.norm3", wide)


def vae_shapes(form: VaeForm) -> Shapes:
    widths = [form.channels * times for times in form.multipliers]
    last, ends = widths[-1], len(widths) - 1
    shapes = layer("quant_conv", 2 * form.latent, 2 * form.latent, 1, 1) | layer("post_quant_conv", form.latent, form.latent, 1, 1)
    shapes |= layer("encoder.conv_in", form.channels, 3, 3, 3) | vae_middle("encoder", last) | layer("encoder.norm_out", last)
    shapes |= layer("encoder.conv_out", 2 * form.latent, last, 3, 3) | layer("decoder.conv_in", last, form.latent, 3, 3)
    shapes |= vae_middle("decoder", last) | layer("decoder.norm_out", widths[0]) | layer("decoder.conv_out", 3, widths[0], 3, 3)
    down, up = form.channels, last
    for level, wide in enumerate(widths):
        for block in range(form.blocks):
            shapes |= vae_residual(f"encoder.down.{level}.block.{block}", down if block == 0 else wide, wide)
        shapes |= layer(f"encoder.down.{level}.downsample.conv", wide, wide, 3, 3) if level < ends else {}
        down = wide
    for level, wide in reversed(list(enumerate(widths))):
        for block in range(form.blocks + 1):
            shapes |= vae_residual(f"decoder.up.{level}.block.{block}", up if block == 0 else wide, wide)
        shapes |= layer(f"decoder.up.{level}.upsample.conv", wide, wide, 3, 3) if level else {}
        up = wide
    return shapes


def vae_middle(name: str, wide: int) -> Shapes:
    shapes = vae_residual(f"{name}.mid.block_1", wide, wide) | vae_residual(f"{name}.mid.block_2", wide, wide)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= layer(f"{name}.mid.attn_1.{part}", wide, wide, 1, 1)
    return shapes | layer(f"{name}.mid.attn_1.norm", wide)


def vae_residual(name: str, inner: int, outer: int) -> Shapes:
    shapes = layer(f"{name}.norm1", inner) | layer(f"{name}.conv1", outer, inner, 3, 3)
    shapes |= layer(f"{name}.norm2", outer) | layer(f"{name}.conv2", outer, outer, 3, 3)
    return shapes | (layer(f"{name}.nin_shortcut", outer, inner, 1, 1) if inner != outer else {})


def layer(name: str, *shape: int) -> Shapes:
    """A weight and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

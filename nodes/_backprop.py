"""Gradients through the user's own denoiser: a copy of the MODEL outside inference mode, and the two hooks that differentiate it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import comfy.controlnet
import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch

from ..models.diffusion.guidance import Guidance, standard_deviation, unit_direction
from ..models.diffusion.text import LEARNING_RATE, adam_step
from ..models.errors import FaceLoomError, check_finite
from . import _memory

TEXT = "c_crossattn"
NAN = "The model returned NaN; use another precision (such as --force-upcast-attention or --fp32-unet) or a lower cfg."
_NAN_BACK = "The gradient through model and VAE is NaN; set guide_through to x0, or run ComfyUI with --fp32-unet and --fp32-vae."


@contextmanager
def normal_mode() -> Iterator[None]:
    """Outside inference mode, so that what is loaded and computed may be saved for a backward pass; no graph is kept until one is asked
    for."""
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    except RuntimeError as error:
        if "nference tensors" not in str(error):
            raise
        raise FaceLoomError("Something on this model or conditioning (an adapter or a ControlNet) cannot be differentiated; set "
                            "guide_through to x0.") from error


def own_copy(model):
    """The MODEL with weights of its own, made outside inference mode: the user's stays as it is and this one is gone after the run."""
    if model.is_dynamic():
        return model.clone(disable_dynamic=True)
    _memory.make_room(model.loaded_size(), model.load_device)
    shared = {id(model.model.model_config): model.model.model_config, id(model.model.current_patcher): None}
    net = copy.deepcopy(model.model, shared)
    kept, buffers, objects, _ = model.get_clone_model_override()[1]
    return model.clone(model_override=(net, (copy.deepcopy(kept), copy.deepcopy(buffers), dict(objects), set())))


def normal(value, made: dict[int, object] | None = None):
    """Conditioning whose tensors and ControlNets are copies made outside inference mode. A ControlNet that several share stays one, so
    that ComfyUI goes on sampling them together."""
    made = {} if made is None else made
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, list):
        return [normal(item, made) for item in value]
    if isinstance(value, dict):
        return {key: normal(item, made) for key, item in value.items()}
    if not isinstance(value, comfy.controlnet.ControlBase):
        return value
    if id(value) not in made:
        made[id(value)] = _own_control(value, made)
    return made[id(value)]


def _own_control(control, made: dict[int, object]):
    """A copy with weights and hint of its own, and of the chain before it."""
    own = control.copy()
    patcher = getattr(own, "control_model_wrapped", None)
    if patcher is not None:
        _memory.make_room(patcher.model_size(), patcher.load_device)
    for name, part in list(vars(own).items()):
        if isinstance(part, torch.nn.Module):
            setattr(own, name, copy.deepcopy(part).requires_grad_(False))
        elif isinstance(part, (torch.Tensor, list, dict)):
            setattr(own, name, normal(part, made))
    if patcher is not None:
        own.control_model_wrapped = comfy.model_patcher.ModelPatcher(own.control_model, patcher.load_device, patcher.offload_device)
    return own.set_previous_controlnet(normal(control.previous_controlnet, made))


def predict(model, x: torch.Tensor, sigma: torch.Tensor, cond: list, uncond: list | None, cfg: float, model_options: dict) -> torch.Tensor:
    """The guided prediction of x0, with a graph if one is being kept. At a cfg of 1 the negative has no part in it."""
    uncond = None if cfg == 1 else uncond
    out = comfy.samplers.calc_cond_batch(model, [cond, uncond], x, sigma, model_options)
    return out[0] if uncond is None else out[1] + (out[0] - out[1]) * cfg


def pull_through_denoiser(guidance: Guidance, args: dict) -> torch.Tensor:
    """The prediction moved against the gradient of the losses with respect to the noisy latent (Dhariwal and Nichol 2021, as DiffFace
    does)."""
    with torch.enable_grad():
        x = args["input"].detach().clone().requires_grad_(True)
        x0 = predict(args["model"], x, args["sigma"], args["cond"], args["uncond"], args["cond_scale"], args["model_options"])
        value, size = guidance.combined_loss(x0)
        gradient = torch.autograd.grad(value.sum(), x)[0]
    check_finite(gradient, _NAN_BACK)
    denoised = args["denoised"]
    return denoised - size * standard_deviation(denoised) * unit_direction(gradient)


def text_optimiser(guidance: Guidance, acts: Callable[[object, torch.Tensor, dict], bool]) -> Callable:
    """A PREDICT_NOISE wrapper: before each step one Adam step on the positive tokens, kept for the steps that follow."""

    def wrapper(executor, x, timestep, model_options=None, seed=None):
        guider = executor.class_obj
        if acts(guider.inner_model, timestep, model_options):
            comfy.model_management.throw_exception_if_processing_interrupted()
            guider.conds["positive"] = _improved(guidance, guider, x, timestep, model_options)
        return executor(x, timestep, model_options, seed)

    return wrapper


def _improved(guidance: Guidance, guider, x: torch.Tensor, sigma: torch.Tensor, model_options: dict) -> list:
    positive = guider.conds["positive"]
    if not all(TEXT in cond["model_conds"] for cond in positive):
        raise FaceLoomError("This model takes no text tokens that could be optimised; set guide_through to x0 or denoiser.")
    with torch.enable_grad():
        leaves = [cond["model_conds"][TEXT].cond.detach().clone().requires_grad_(True) for cond in positive]
        uncond = guider.conds.get("negative")
        x0 = predict(guider.inner_model, x.detach().clone(), sigma, with_tokens(positive, leaves), uncond, guider.cfg, model_options)
        check_finite(x0, NAN)
        gradients = torch.autograd.grad(guidance.combined_loss(x0)[0].sum(), leaves)
    for gradient in gradients:
        check_finite(gradient, _NAN_BACK)
    rate = LEARNING_RATE * guidance.strongest
    better = [adam_step(leaf.detach(), gradient, rate) for leaf, gradient in zip(leaves, gradients, strict=True)]
    return with_tokens(positive, better)


def with_tokens(conds: list, tokens: list[torch.Tensor]) -> list:
    return [cond | {"model_conds": cond["model_conds"] | {TEXT: cond["model_conds"][TEXT]._copy_with(token)}}
            for cond, token in zip(conds, tokens, strict=True)]

"""LoadFaceAdapter and FaceAdapterEncode: Face-Adapter as conditioning for any Stable Diffusion 1.5 under an ordinary sampler."""

from __future__ import annotations

import comfy.clip_vision
import comfy.controlnet
import torch
from comfy_api.latest import io

from ..models.errors import FaceLoomError
from ..models.pixels.tensors import as_images
from ..models.systems import load as systems
from ..models.systems.face_adapter import MODES
from ..models.systems.face_adapter_load import CONTROL_FOLDER, VISION_FOLDER, find_weights_in_folder
from ..models.systems.face_adapter_swap import LATENT_SHAPE
from ._inputs import conditioning_outputs, target_and_source
from ._models import ResearchLoader, load_research, loading
from ._runtime import give, listener, place, show
from ._schema import Node
from ._sockets import FaceAdapter, FaceParser


class LoadFaceAdapter(ResearchLoader, title="Load Face-Adapter", shows_text=True,
                      aliases=["face adapter", "faceadapter", "net_id2token", "reenactment", "diffusion face swap"]):
    """Loads Face-Adapter, which makes any Stable Diffusion 1.5 model swap or reenact faces."""

    row_name = "faceadapter_id2token"
    file_tooltip = ("The authors' net_id2token.pth, looked for in models/faceloom/faceadapter, with their other files beside it. Whether "
                    "commercial use is allowed is not clear.")

    outputs = [
        FaceAdapter.Output("face_adapter", tooltip="What looks at source and target, for Face-Adapter Encode."),
        io.ControlNet.Output("control_net", tooltip="Face-Adapter's ControlNet, if its folder controlnet lies beside the file. Otherwise "
                                                    "load it with Load ControlNet Model."),
        io.ClipVision.Output("clip_vision", tooltip="Face-Adapter's CLIP, if its folder vision_encoder lies beside the file. Otherwise "
                                                    "load it, or CLIP ViT-H/14, with Load CLIP Vision."),
    ]

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        (adapter, path), text = load_research(file, lambda found: (systems.load_system(found, loading()), found.path))
        control, vision = (find_weights_in_folder(path, folder) for folder in (CONTROL_FOLDER, VISION_FOLDER))
        # An output of None leaves the socket it goes to as if nothing were connected.
        return io.NodeOutput(adapter, control and comfy.controlnet.load_controlnet(str(control)),
                             vision and comfy.clip_vision.load(str(vision)), ui=show(cls, text=text))


class FaceAdapterEncode(Node, title="Face-Adapter Encode", aliases=["face adapter", "faceadapter", "reenactment", "diffusion face swap"]):
    """Looks at the source and at every crop and makes what KSampler needs to paint the source's face into them with any Stable Diffusion
    1.5 model."""

    @classmethod
    def inputs(cls):
        return [
            FaceAdapter.Input("face_adapter", tooltip="From Load Face-Adapter."),
            io.Clip.Input("clip", tooltip="The CLIP of your Stable Diffusion 1.5 checkpoint: the empty prompt is the negative."),
            io.ControlNet.Input("control_net", tooltip="Face-Adapter's ControlNet, from Load Face-Adapter or Load ControlNet Model."),
            *target_and_source(faces="best from Face Align with alignment set to box", crops="best 512 pixels wide",
                               photos="Its photos are looked at."),
            io.Combo.Input("mode", options=list(MODES), default="swap",
                           tooltip="What is painted: with swap the source's face into the crops, with reenact the source's own "
                                   "picture with the expression and pose of the crops."),
            io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.01,
                           tooltip="How firmly the ControlNet holds picture, expression and pose. Face-Adapter was made with 1."),
            io.ClipVision.Input("clip_vision", optional=True,
                                tooltip="Face-Adapter's CLIP, from Load Face-Adapter, or CLIP ViT-H/14 from Load CLIP Vision."),
            FaceParser.Input("parser", optional=True,
                             tooltip="The network that tells where a swap may paint, from Load Face Parser. Left unconnected, "
                                     "79999_iter.pth is used if it is there, else the outlines of the landmarks."),
        ]

    outputs = [
        *conditioning_outputs(
            positive="For each face the source as a prompt for the model, and for the ControlNet what is to stay, as a prompt and as a "
                     "picture.",
            negative="The same ControlNet with empty prompts.",
            latent="An empty latent of 512×512 per face, for KSampler with a denoise of 1.",
            mask="Where each painted picture belongs, with a soft edge, for Paste Back.",
        ),
        io.Image.Output("hint", tooltip="What the ControlNet sees: the picture, and coloured points where the face shall be."),
        io.Image.Output("background", tooltip="What stays around the mask: the crops when swapping, the source's picture when reenacting."),
    ]

    @classmethod
    def execute(cls, face_adapter, clip, control_net, faces, crops, identity, mode, strength, clip_vision=None, parser=None
                ) -> io.NodeOutput:
        for model, what, folder in ((clip_vision, "CLIP vision model", VISION_FOLDER), (control_net, "ControlNet", CONTROL_FOLDER)):
            if model is None:
                raise FaceLoomError(f"Face-Adapter needs its {what}; connect it, or put the authors' folder {folder} beside their files.")
        told = face_adapter.conditions(as_images(crops), faces, identity, lambda seen: clip_vision.encode_image(seen)["last_hidden_state"],
                                       mode=mode, parser=parser, progress=listener())
        empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))[0][0]
        if empty.shape[-1] != told.tokens.shape[-1]:
            raise FaceLoomError(f"Face-Adapter speaks to Stable Diffusion 1.5, whose prompts are {told.tokens.shape[-1]} numbers wide, and "
                                f"this CLIP's are {empty.shape[-1]}; connect the CLIP of a Stable Diffusion 1.5 checkpoint.")
        empty = empty.to(told.tokens).expand(len(told), -1, -1)
        # SD 1.5's ControlNets take hints as they are, and this one was trained on -1 to 1.
        control = control_net.copy().set_cond_hint(told.hint.movedim(-1, 1) * 2 - 1, strength)
        hints = {"control": control, "control_apply_to_uncond": False}
        positive, negative = ([[place(prompt), {"cross_attn_controlnet": place(seen), **hints}]]
                              for prompt, seen in ((told.tokens, told.image_tokens), (empty, empty)))
        latent = {"samples": place(torch.zeros(len(told), *LATENT_SHAPE))}
        return io.NodeOutput(positive, negative, latent, give(told.mask), give(told.hint), give(told.background))

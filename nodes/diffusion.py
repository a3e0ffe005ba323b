"""DiffusionInpaintSwap: the user's own diffusion model as a face swapper."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..models.diffusion.blending import BLENDINGS
from ..models.diffusion.crop import composite, remove_color_drift, sampling_size
from ..models.diffusion.guidance import Guidance
from ..models.diffusion.parsing import differentiable_parser
from ..models.diffusion.swap import GuidanceStrengths, make_guidance, rows_to_sample, wanted_embeddings
from ..models.identity.differentiable import as_differentiable
from ..models.pixels.masks import fit_mask
from ..models.pixels.resize import resize_area_or_lanczos
from ..models.pixels.tensors import as_crops
from . import _memory, _sampling
from ._inputs import amount_input, recognizer_input, seed_input
from ._runtime import give
from ._schema import Node
from ._sockets import FaceParser, Faces, GazeEstimator, Identity, as_recognizer


class DiffusionInpaintSwap(Node, title="Diffusion Inpaint Swap",
                           aliases=["inpaint face", "diffusion face swap", "face detailer", "instantid swap", "ip-adapter swap"]):
    """Repaints the masked face of every crop with your own diffusion model, LoRAs, adapters and ControlNets included, and can pull it
    towards an identity while it samples."""

    @classmethod
    def inputs(cls):
        return [
            io.Model.Input("model", tooltip="Any diffusion model: Stable Diffusion, SDXL, Flux and so on, plain or inpainting, with your "
                                            "LoRAs and adapters on it."),
            io.Conditioning.Input("positive", tooltip="What to paint. ControlNets must have been applied with hints made from these "
                                                      "crops."),
            io.Conditioning.Input("negative", tooltip="What to keep out of the picture."),
            io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
            io.Image.Input("crops", tooltip="The face crops, from Face Detect or One-Shot Swap."),
            io.Mask.Input("mask", tooltip="Where to repaint, in crop space, from Face Parse Mask or 3-D Landmark Mask. A crop with an "
                                          "empty mask is left as it is."),
            seed_input("The noise of the first crop; the next ones use the numbers that follow."),
            io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps."),
            io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, round=0.01,
                           tooltip="How closely to follow the prompt. Use 1 for Flux and distilled models."),
            io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="dpmpp_2m", tooltip="The sampling method."),
            io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="karras", tooltip="How the noise falls."),
            io.Float.Input("denoise", default=0.6, min=0.0, max=1.0, step=0.01,
                           tooltip="How much to repaint: 0 returns the crops unchanged, 0.35 polishes a swap, 1 invents the face."),
            io.Combo.Input("blending", options=list(BLENDINGS), default="soft",
                           tooltip="How the mask acts step by step: soft as it is, hard without its edge, target-preserving fades "
                                   "it in so that layout and light of the target stay, differential repaints grey parts less."),
            amount_input("blend_start", 0.0, "Where target-preserving blending starts to let the mask in, from 0 (first step) to 1 (last "
                                            "step).", advanced=True),
            amount_input("blend_end", 0.6, "From where on the whole mask is repainted with target-preserving blending.", advanced=True),
            io.Int.Input("size", default=0, min=0, max=4096, step=64,
                         tooltip="Width and height at which to sample. 0 is the model's own: 512 for SD 1.x and 2.x, 1024 for the others."),
            io.Boolean.Input("fix_color", default=True, advanced=True,
                             tooltip="Takes out the colour drift of the VAE, measured in a ring around the mask."),
            amount_input("identity_strength", 1.0, "How firmly each step is pulled towards the identity. Needs an identity and an ArcFace "
                                                  "recognizer; 0 is off.", most=4.0),
            amount_input("expression_strength", 0.0, "How firmly the shapes of eyes, brows, nose and mouth are held where the target has "
                                                    "them. Needs a parser that is a network; 0 is off.", most=4.0, advanced=True),
            amount_input("gaze_strength", 0.0, "How firmly the direction in which the target looks is held. Needs a gaze estimator; 0 is "
                                              "off.", most=4.0, advanced=True),
            amount_input("guidance_start", 0.0, "From where on guidance acts, from 0 (first step) to 1 (last step).", advanced=True),
            amount_input("guidance_end", 1.0, "Up to where guidance acts.", advanced=True),
            io.Int.Input("views", default=4, min=1, max=16, advanced=True,
                         tooltip="How many slightly turned looks at the face the identity is measured in. More is more natural and "
                                 "slower."),
            io.Combo.Input("guidance_decode", options=["vae", "preview"], default="vae", advanced=True,
                           tooltip="How guidance sees the picture: through the VAE, or through the quick preview colours, which needs far "
                                   "less memory and time but sees less."),
            io.Combo.Input("guide_through", options=list(_sampling.THROUGH), default="x0", advanced=True,
                           tooltip="What guidance changes: x0 is the picture predicted at each step and works with every model; "
                                   "denoiser takes the gradient through the whole model, and text improves the prompt's tokens step "
                                   "by step. The last two need memory for a second model."),
            Identity.Input("identity", optional=True,
                           tooltip="Who the face is pulled towards, from ArcFace Embed with the same recognizer. Faces that have a person "
                                   "of their own, from Face Assign, are pulled towards that one. Without either only the prompt and your "
                                   "adapters decide."),
            recognizer_input("The ArcFace network that measures the likeness, from Load Face Recognizer or an InsightFace loader."),
            FaceParser.Input("parser", optional=True, tooltip="The parsing network for expression_strength."),
            Faces.Input("faces", optional=True,
                        tooltip="The faces of these crops: guidance then looks exactly where they are, and at the right framing."),
            GazeEstimator.Input("gaze_estimator", optional=True, tooltip="The network for gaze_strength, from Load Gaze Estimator."),
        ]

    outputs = [io.Image.Output("crops", tooltip="The repainted crops, in the same order and size, for Paste Back. Pixels outside the mask "
                                                "are those that came in.")]

    @classmethod
    def execute(cls, model, positive, negative, vae, crops, mask, seed, steps, cfg, sampler_name, scheduler, denoise, blending, blend_start,
                blend_end, size, fix_color, identity_strength, expression_strength, gaze_strength, guidance_start, guidance_end, views,
                guidance_decode, guide_through, identity=None, recognizer=None, parser=None, faces=None,
                gaze_estimator=None) -> io.NodeOutput:
        images = as_crops(crops)
        masks = fit_mask(mask, *images.shape[:3]).to(images.device)
        rows = rows_to_sample(images, masks)
        if not rows or denoise == 0:
            return io.NodeOutput(give(images))
        known = identity is not None or (faces is not None and any(face.identity is not None for face in faces))
        pull = GuidanceStrengths(identity_strength if known else 0.0, expression_strength, gaze_strength, views, seed)
        recognizer = as_recognizer(recognizer) if pull.identity > 0 else None
        pull.check(len(images), identity, recognizer, parser, faces, gaze_estimator)
        edge = sampling_size(size or _sampling.native_size(model), vae.spacial_compression_encode())
        pictures, holes = resize_area_or_lanczos(images[rows], edge), resize_area_or_lanczos(masks[rows], edge)
        latents = _sampling.encode(vae, pictures)
        _sampling.check_model(model, vae, latents)
        positive, negative = _sampling.rows_of([positive, negative], rows, len(images))
        if _sampling.wants_masked_picture(model):
            masked = _sampling.encode(vae, _sampling.grey_inside(pictures, holes))
            positive, negative = (_sampling.with_masked_picture(pairs, masked, holes[:, None]) for pairs in (positive, negative))

        settings = _sampling.Settings(seed, steps, cfg, sampler_name, scheduler, denoise, blending, blend_start, blend_end, guidance_start,
                                      guidance_end, guide_through)
        guidance, decoding = None, 0
        if pull.enabled:
            look = _sampling.vae_decoder(model, vae) if guidance_decode == "vae" else _sampling.preview_decoder(model, edge)
            decoding = _memory.decoding(vae, latents.shape) if guidance_decode == "vae" else 0
            embedder = as_differentiable(recognizer) if pull.identity > 0 else None
            wanted = wanted_embeddings(len(images), identity, faces, recognizer.space) if pull.identity > 0 else None
            parse = differentiable_parser(parser) if pull.expression > 0 else None
            eyes = gaze_estimator.differentiable() if pull.gaze > 0 else None

            def guidance(chunk: list[int]) -> Guidance:
                shown = None if faces is None else faces.take([rows[i] for i in chunk])
                whom = None if wanted is None else wanted[[rows[i] for i in chunk]]
                return make_guidance(pull, look, pictures[chunk].to(model.load_device), shown, embedder, whom, parse, eyes)

        latents = _sampling.sample(model, positive, negative, latents, holes[:, None], settings, guidance, rows, decoding)
        results = _sampling.decode(vae, latents).to(pictures.device)
        if fix_color:
            results = remove_color_drift(results, pictures, holes)
        out = images.clone()
        out[rows] = composite(images[rows], resize_area_or_lanczos(results, images.shape[1]), masks[rows])
        return io.NodeOutput(give(out))

"""DiffusionInpaintSwap in a real ComfyUI, with small models of the real architectures and weights made here."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

_spec = importlib.util.spec_from_file_location("diffusion_doubles", Path(__file__).with_name("diffusion_doubles.py"))
doubles = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(doubles)

SIZE = 64
PLAIN = {"size": SIZE, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.6,
         "seed": 7, "fix_color": False}


@pytest.fixture(autouse=True)
def inference():
    """Nodes run under inference mode; these models are too small for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def paint(pack, nodes):
    """``paint(model=…, crops=…)``: the node with its defaults, as ComfyUI calls it."""
    node = nodes["DiffusionInpaintSwap"]
    defaults = {item.id: item.default for item in node.define_schema().inputs if getattr(item, "default", None) is not None}

    def run(**given):
        return node.execute(**(defaults | PLAIN | given)).args[0]

    return run


@pytest.fixture(scope="module")
def sd15(pack):
    with torch.inference_mode():
        return {"model": doubles.sd15(), "vae": doubles.vae(), "positive": doubles.conditioning(1), "negative": doubles.conditioning(2)}


@pytest.fixture(scope="module")
def crops(collins, hopper):
    """Four 96-pixel crops."""
    parts = [collins[:, :256, 100:356], hopper[:, 100:356, 130:386], collins[:, :256, 100:356].flip(2), hopper[:, 344:, 100:356]]
    return torch.cat([torch.nn.functional.interpolate(p.movedim(-1, 1), (96, 96), mode="area").movedim(1, -1) for p in parts])


@pytest.fixture(scope="module")
def mask():
    """A soft disc: whole in the middle, nothing from radius 40 on."""
    ys, xs = torch.meshgrid(torch.arange(96) - 47.5, torch.arange(96) - 47.5, indexing="ij")
    return ((40 - torch.hypot(xs, ys)) / 16).clamp(0, 1)[None]


def reference(sd15, crops, mask, settings, **latent):
    """The same by core nodes: VAEEncode, SetLatentNoiseMask, KSampler, VAEDecode."""
    from faceloom.models.diffusion.crop import composite
    from faceloom.models.pixels.resize import resize_area_or_lanczos

    import nodes as core

    small, hole = resize_area_or_lanczos(crops, SIZE), resize_area_or_lanczos(mask.expand(len(crops), -1, -1), SIZE)
    given = {"samples": sd15["vae"].encode(small), "noise_mask": hole[:, None], **latent}
    given = core.common_ksampler(sd15["model"], settings["seed"], settings["steps"], settings["cfg"], settings["sampler_name"],
                                 settings["scheduler"], sd15["positive"], sd15["negative"], given, denoise=settings["denoise"])[0]
    result = sd15["vae"].decode(given["samples"])
    return composite(crops, resize_area_or_lanczos(result, crops.shape[1]), mask.expand(len(crops), -1, -1))


class TestSampling:
    def test_equals_core_nodes(self, paint, sd15, crops, mask):
        ours = paint(**sd15, crops=crops[:1], mask=mask)
        core = reference(sd15, crops[:1], mask, PLAIN)
        assert (ours - core).abs().max() < 1e-5
        assert (ours - crops[:1]).abs().max() > 0.2

    def test_pixels_outside_the_mask_are_untouched(self, paint, sd15, crops, mask):
        for blending in ("soft", "hard", "target-preserving", "differential"):
            out = paint(**sd15, crops=crops, mask=mask, blending=blending, fix_color=True)
            outside = mask.expand(4, -1, -1) == 0
            assert torch.equal(out[outside], crops[outside])
            assert (out - crops)[~outside].abs().mean() > 0.02

    def test_no_denoising_gives_the_crops_back(self, paint, sd15, crops, mask):
        assert torch.equal(paint(**sd15, crops=crops, mask=mask, denoise=0.0), crops)

    def test_no_face_passes(self, paint, sd15):
        black = torch.zeros(1, 96, 96, 3)
        assert torch.equal(paint(**sd15, crops=black, mask=torch.zeros(1, 96, 96)), black)

    def test_no_face_passes_whatever_the_mask(self, paint, sd15, found):
        from dataclasses import replace

        black = torch.zeros(1, 96, 96, 3)
        assert torch.equal(paint(**sd15, crops=black, mask=torch.ones(1, 96, 96), faces=replace(found["collins"], items=())), black)

    def test_crops_with_an_empty_mask_are_left_alone(self, paint, sd15, crops, mask):
        out = paint(**sd15, crops=crops[:3], mask=torch.cat([mask, mask * 0, mask]))
        assert torch.equal(out[1], crops[1])
        # A crop that is left out changes nothing about the noise of the others.
        assert (out[2] - paint(**sd15, crops=crops[2:3], mask=mask, seed=PLAIN["seed"] + 2)[0]).abs().max() < 1e-4

    @pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde", "ddim"])
    def test_a_batch_is_its_singles(self, paint, sd15, crops, mask, sampler):
        batch = paint(**sd15, crops=crops, mask=mask, sampler_name=sampler)
        for i in range(4):
            single = paint(**sd15, crops=crops[i:i + 1], mask=mask, seed=PLAIN["seed"] + i, sampler_name=sampler)
            assert (batch[i] - single[0]).abs().max() < 1e-4
        assert torch.equal(batch, paint(**sd15, crops=crops, mask=mask, sampler_name=sampler))

    def test_chunks_do_not_show(self, paint, sd15, crops, mask, monkeypatch):
        from faceloom.nodes import _sampling

        whole = paint(**sd15, crops=crops, mask=mask)
        monkeypatch.setattr(_sampling, "CHUNK", 3)
        assert (paint(**sd15, crops=crops, mask=mask) - whole).abs().max() < 1e-4

    def test_conditioning_with_one_entry_per_crop(self, paint, sd15, crops, mask, monkeypatch):
        from faceloom.nodes import _sampling

        monkeypatch.setattr(_sampling, "CHUNK", 3)
        each = doubles.conditioning(5, count=4)
        batch = paint(**sd15 | {"positive": each}, crops=crops, mask=mask)
        for i in range(4):
            own = [[each[0][0][i:i + 1], {}]]
            single = paint(**sd15 | {"positive": own}, crops=crops[i:i + 1], mask=mask, seed=PLAIN["seed"] + i)
            assert (batch[i] - single[0]).abs().max() < 1e-4

    def test_conditioning_of_crops_that_are_left_out(self, paint, sd15, crops, mask):
        """One entry per crop, and the first crop has an empty mask: the others keep theirs."""
        each = doubles.conditioning(5, count=3)
        out = paint(**sd15 | {"positive": each}, crops=crops[:3], mask=torch.cat([mask * 0, mask, mask]))
        for i in (1, 2):
            own = [[each[0][0][i:i + 1], {}]]
            single = paint(**sd15 | {"positive": own}, crops=crops[i:i + 1], mask=mask, seed=PLAIN["seed"] + i)
            assert (out[i] - single[0]).abs().max() < 1e-4

    def test_seeds_differ(self, paint, sd15, crops, mask):
        one, other = (paint(**sd15, crops=crops[:1], mask=mask, seed=seed) for seed in (1, 2))
        assert (one - other).abs().max() > 0.02


class TestModels:
    @pytest.mark.slow
    def test_the_whole_of_stable_diffusion(self, paint, crops, mask, grace, recognizer):
        """SD 1.5's own width, 860 million weights, at 64 pixels."""
        made = {"model": doubles.sd15(channels=320, context=768), "vae": doubles.vae(), "positive": doubles.conditioning(1, 768),
                "negative": doubles.conditioning(2, 768)}
        assert sum(p.numel() for p in made["model"].model.diffusion_model.parameters()) == 859_520_964
        plain = paint(**made, crops=crops[:1], mask=mask)
        assert (plain - reference(made, crops[:1], mask, PLAIN)).abs().max() < 1e-5
        guided = paint(**made, crops=crops[:1], mask=mask, identity=grace, recognizer=recognizer, views=1)
        assert (guided - plain).abs().max() > 1e-4
        assert torch.equal(guided[:, 0], crops[:1, 0])

    def test_inpainting_checkpoint(self, paint, sd15, crops, mask):
        """Nine channels: the same as InpaintModelConditioning and KSampler."""
        from faceloom.models.diffusion.crop import composite
        from faceloom.models.pixels.resize import resize_area_or_lanczos

        import nodes as core

        inpaint = sd15 | {"model": doubles.sd15(9)}
        small, hole = resize_area_or_lanczos(crops[:1], SIZE), resize_area_or_lanczos(mask, SIZE)
        positive, negative, latent = core.InpaintModelConditioning().encode(sd15["positive"], sd15["negative"], small, sd15["vae"], hole)
        sampled = core.common_ksampler(inpaint["model"], 7, 2, 2.0, "euler", "normal", positive, negative, latent, denoise=0.6)[0]
        wanted = composite(crops[:1], resize_area_or_lanczos(sd15["vae"].decode(sampled["samples"]), 96), mask)
        assert (paint(**inpaint, crops=crops[:1], mask=mask) - wanted).abs().max() < 1e-4
        assert (wanted - reference(inpaint, crops[:1], mask, PLAIN)).abs().max() > 1e-3  # the masked picture does matter

    def test_sdxl(self, paint, sd15, crops, mask):
        made = {"model": doubles.sdxl(), "positive": doubles.conditioning(1, pooled=1280), "negative": doubles.conditioning(2, pooled=1280)}
        assert (paint(**sd15 | made, crops=crops[:1], mask=mask) - reference(sd15 | made, crops[:1], mask, PLAIN)).abs().max() < 1e-5

    def test_flux(self, paint, crops, mask):
        made = {"model": doubles.flux(), "vae": doubles.vae(16), "positive": doubles.conditioning(1, pooled=32),
                "negative": doubles.conditioning(2, pooled=32)}
        settings = PLAIN | {"cfg": 1.0, "scheduler": "simple"}
        out = paint(**made, crops=crops[:1], mask=mask, cfg=1.0, scheduler="simple")
        assert (out - reference(made, crops[:1], mask, settings)).abs().max() < 1e-5

    @pytest.fixture
    def qwen(self, pack):
        return {"model": doubles.qwen(), "vae": doubles.video_vae(), "positive": doubles.conditioning(1),
                "negative": doubles.conditioning(2), "cfg": 1.0, "scheduler": "simple"}

    def test_each_crop_of_a_video_model_has_its_own_mask(self, paint, qwen, crops, mask):
        """Their latents have a dimension of time, along which a batch of masks must not be laid."""
        masks = torch.cat([mask, torch.zeros_like(mask)])
        masks[1, 70:90, 5:40] = 1
        batch = paint(**qwen, crops=crops[:2], mask=masks)
        for i in range(2):
            single = paint(**qwen, crops=crops[i:i + 1], mask=masks[i:i + 1], seed=PLAIN["seed"] + i)
            assert (batch[i] - single[0]).abs().max() < 1e-4

    def test_each_crop_of_an_edit_model_has_its_own_reference(self, paint, qwen, crops, mask, monkeypatch):
        """Reference latents, a list whose entries have one picture per crop, are cut with the crops."""
        from faceloom.nodes import _sampling

        monkeypatch.setattr(_sampling, "CHUNK", 3)
        references = 10 * torch.randn(4, 16, 1, 8, 8, generator=torch.Generator().manual_seed(3))
        tokens = qwen["positive"][0][0]
        batch = paint(**qwen | {"positive": [[tokens, {"reference_latents": [references]}]]}, crops=crops, mask=mask)
        for i in (0, 3):
            own = [[tokens, {"reference_latents": [references[i:i + 1]]}]]
            single = paint(**qwen | {"positive": own}, crops=crops[i:i + 1], mask=mask, seed=PLAIN["seed"] + i)
            assert (batch[i] - single[0]).abs().max() < 1e-4

    def test_guidance_through_a_video_vae(self, paint, qwen, crops, mask, estimator):
        given = qwen | {"crops": crops[:1], "mask": mask, "gaze_estimator": estimator}
        assert (paint(**given, gaze_strength=1.0) - paint(**given)).abs().max() > 1e-4

    def test_a_patch_of_the_weights_reaches_the_sampler(self, paint, sd15, crops, mask):
        """What a LoRA loader does."""
        model = sd15["model"].clone()
        key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"
        weight = model.model.state_dict()[key]
        model.add_patches({key: ("diff", (torch.ones_like(weight),))}, 0.5)
        changed = paint(**sd15 | {"model": model}, crops=crops[:1], mask=mask)
        assert (changed - paint(**sd15, crops=crops[:1], mask=mask)).abs().max() > 1e-3
        assert (changed - reference(sd15 | {"model": model}, crops[:1], mask, PLAIN)).abs().max() < 1e-5

    def test_an_attention_patch_reaches_the_sampler(self, paint, sd15, crops, mask):
        """What IP-Adapter and its kin do."""
        model = sd15["model"].clone()
        model.set_model_attn2_output_patch(lambda out, options: out * 0)
        changed = paint(**sd15 | {"model": model}, crops=crops[:1], mask=mask)
        assert (changed - paint(**sd15, crops=crops[:1], mask=mask)).abs().max() > 1e-3
        assert (changed - reference(sd15 | {"model": model}, crops[:1], mask, PLAIN)).abs().max() < 1e-5

    def test_a_controlnet_reaches_the_sampler(self, paint, sd15, crops, mask, monkeypatch):
        """Four hints, one per crop: each crop gets its own in whatever chunk it is, and the user's ControlNet keeps all four."""
        from faceloom.nodes import _sampling

        hints = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(3))

        def controlled(hint):
            return [[sd15["positive"][0][0], {"control": doubles.control(hint), "control_apply_to_uncond": True}]]

        monkeypatch.setattr(_sampling, "CHUNK", 3)
        positive = controlled(hints)
        batch = paint(**sd15 | {"positive": positive}, crops=crops, mask=mask)
        assert positive[0][1]["control"].cond_hint_original is hints
        plain = paint(**sd15, crops=crops, mask=mask)
        for i in range(4):
            assert (batch[i] - plain[i]).abs().max() > 1e-3
            own = controlled(hints[i:i + 1])
            single = paint(**sd15 | {"positive": own}, crops=crops[i:i + 1], mask=mask, seed=PLAIN["seed"] + i)
            assert (batch[i] - single[0]).abs().max() < 1e-4
        assert (single - reference(sd15 | {"positive": own}, crops[3:], mask, PLAIN | {"seed": PLAIN["seed"] + 3})).abs().max() < 1e-5

    def test_a_blending_of_the_users_own_stays(self, paint, sd15, crops, mask):
        from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

        model = DifferentialDiffusion.execute(sd15["model"]).args[0]
        assert (paint(**sd15 | {"model": model}, crops=crops[:1], mask=mask)
                - reference(sd15 | {"model": model}, crops[:1], mask, PLAIN)).abs().max() < 1e-5


def state(model) -> tuple:
    """Everything of a MODEL that a node could have left changed."""
    weights = {key: value.clone() for key, value in model.model.state_dict().items()}
    return weights, copy.deepcopy(model.model_options), copy.deepcopy(model.object_patches), {k: list(v) for k, v in model.patches.items()}


def same_state(model, before: tuple) -> bool:
    weights, *rest = before
    after, *now = state(model)
    return all(torch.equal(weights[key], after[key]) for key in weights) and now == rest


class TestUsersModel:
    def test_is_untouched(self, paint, sd15, crops, mask, estimator):
        before = state(sd15["model"])
        for blending in ("soft", "target-preserving"):
            paint(**sd15, crops=crops[:1], mask=mask, blending=blending, gaze_strength=1.0, gaze_estimator=estimator)
        assert same_state(sd15["model"], before)

    @pytest.mark.parametrize("blending", ["soft", "hard"])
    def test_interruption_leaves_nothing(self, paint, sd15, crops, mask, blending, monkeypatch):
        """Cancel during the second of six steps: the network does not run again."""
        import comfy.model_management as mm

        before, calls = state(sd15["model"]), []
        network = sd15["model"].model.diffusion_model
        forward = type(network).forward

        def counted(self, *args, **kwargs):
            calls.append(1)
            if len(calls) == 2:
                mm.interrupt_current_processing()
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(type(network), "forward", counted)
        with pytest.raises(mm.InterruptProcessingException):
            paint(**sd15, crops=crops[:1], mask=mask, steps=6, blending=blending, cfg=1.0)
        assert len(calls) == 2
        mm.interrupt_current_processing(False)
        monkeypatch.undo()
        assert same_state(sd15["model"], before)


    def test_interruption_frees_the_copy_that_is_differentiated(self, paint, sd15, crops, mask, estimator, monkeypatch):
        import comfy.model_management as mm
        from faceloom.nodes import _backprop

        copies, make = [], _backprop.own_copy
        monkeypatch.setattr(_backprop, "own_copy", lambda model: copies.append(make(model)) or copies[-1])
        model = sd15["model"].clone()
        model.set_model_attn2_output_patch(lambda out, options: mm.interrupt_current_processing() or out)
        with pytest.raises(mm.InterruptProcessingException):
            paint(**sd15 | {"model": model}, crops=crops[:1], mask=mask, gaze_strength=1.0, gaze_estimator=estimator,
                  guide_through="denoiser")
        mm.interrupt_current_processing(False)
        assert len(copies) == 1 and copies[0].model.model_loaded_weight_memory == 0


class TestErrors:
    @pytest.fixture(autouse=True)
    def error(self, pack):
        from faceloom.models.errors import FaceLoomError

        self.error = FaceLoomError

    def test_vae_of_another_model(self, paint, sd15, crops, mask):
        with pytest.raises(self.error, match="latents of 16 channels but the model wants 4; connect the VAE"):
            paint(**sd15 | {"vae": doubles.vae(16)}, crops=crops[:1], mask=mask)

    def test_crops_that_are_no_squares(self, paint, sd15, crops, mask):
        with pytest.raises(self.error, match="Crops must be square, not 80×96; connect the crops of Face Detect"):
            paint(**sd15, crops=crops[:1, :, :80], mask=mask)

    def test_empty_mask(self, paint, sd15, crops, mask):
        with pytest.raises(self.error, match="The mask is empty"):
            paint(**sd15, crops=crops[:1], mask=mask * 0)

    def test_nan(self, paint, sd15, crops, mask):
        model = sd15["model"].clone()
        model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * float("nan"))
        with pytest.raises(self.error, match="The model returned NaN"):
            paint(**sd15 | {"model": model}, crops=crops[:1], mask=mask)

    def test_identity_without_a_recognizer(self, paint, sd15, crops, mask, grace):
        with pytest.raises(self.error, match="needs an ArcFace recognizer"):
            paint(**sd15, crops=crops[:1], mask=mask, identity=grace)

    def test_identity_of_another_recognizer(self, paint, sd15, crops, mask, grace, recognizer):
        from faceloom.models.faces import Identity

        other = Identity({"dlib128": np.ones(128, np.float32)}, grace.crops, grace.faces)
        with pytest.raises(self.error, match="no embedding of mobilefacenet_128, only of dlib128"):
            paint(**sd15, crops=crops[:1], mask=mask, identity=other, recognizer=recognizer)

    def test_insightface_object_without_files(self, paint, sd15, crops, mask, grace):
        """An object of insightface's is taken; one whose network is no file has nothing to differentiate."""
        from types import SimpleNamespace

        for models, told in (({}, "has no recognition network"), ({"recognition": SimpleNamespace()}, "is not a file on this machine")):
            with pytest.raises(self.error, match=told):
                paint(**sd15, crops=crops[:1], mask=mask, identity=grace, recognizer=SimpleNamespace(models=models))

    def test_faces_of_other_crops(self, paint, sd15, crops, mask, found):
        with pytest.raises(self.error, match="There are 2 crops but 1 faces; connect the faces that these crops were cut from"):
            paint(**sd15, crops=crops[:2], mask=mask, faces=found["collins"])

    def test_gaze_without_an_estimator(self, paint, sd15, crops, mask):
        with pytest.raises(self.error, match="gaze_strength needs a gaze estimator; connect one from Load Gaze Estimator"):
            paint(**sd15, crops=crops[:1], mask=mask, gaze_strength=0.5)

    def test_recognizer_without_gradient(self, paint, sd15, crops, mask, grace):
        from faceloom.models.faces import Identity
        from faceloom.models.identity.dlib import DlibRecognizer

        other = Identity({"dlib128": np.ones(128, np.float32)}, grace.crops, grace.faces)
        with pytest.raises(self.error, match="no gradient"):
            paint(**sd15, crops=crops[:1], mask=mask, identity=other, recognizer=DlibRecognizer())


@pytest.fixture(scope="module")
def recognizer(pack, shared):
    from faceloom.models.identity.load import load_recognizer
    from faceloom.models.runtime.method import Loading

    return load_recognizer(shared / "models" / "mobilefacenet_128.onnx", Loading(providers="cpu"))


@pytest.fixture(scope="module")
def found(pack, collins, hopper):
    """Faces of the two portraits, crops of 128 pixels."""
    from faceloom.models.detect import detect_faces
    from faceloom.models.options.detect import DetectSettings

    first = DetectSettings(keep="first", crop_size=128)
    return {"collins": detect_faces(collins, settings=first), "hopper": detect_faces(hopper, settings=first)}


@pytest.fixture(scope="module")
def estimator(pack):
    """DiffFace's gaze estimator in small, as its loader gives it: inference tensors."""
    from faceloom.models.diffusion.gaze import GazeEstimator
    from faceloom.models.networks.eyenet import EyeNet

    with torch.inference_mode():
        torch.manual_seed(0)
        net = EyeNet(1, 8, 3)
        torch.nn.init.normal_(net.gaze_fc2.weight, 0, 0.5)
        return GazeEstimator("GazeEstimator", net)


@pytest.fixture(scope="module")
def grace(pack, found, hopper, recognizer):
    from faceloom.models.identity import make_identity

    return make_identity(hopper, found["hopper"], recognizer)[0]


class TestGuidance:
    """The denoiser always predicts Eileen Collins; guidance pulls towards Grace Hopper."""

    @pytest.fixture
    def scene(self, pack, collins, found):
        from faceloom.models.crops.crop import crop_faces

        with torch.inference_mode():
            crop = crop_faces(collins, found["collins"])
            mask = torch.zeros(1, 128, 128)
            mask[:, 28:118, 28:100] = 1
            return {"model": doubles.portrait_model(crop), "vae": doubles.pixel_vae(), "positive": doubles.conditioning(1),
                    "negative": doubles.conditioning(2), "crops": crop, "mask": mask, "faces": found["collins"], "size": 128, "cfg": 1.0,
                    "denoise": 1.0, "steps": 2}

    @pytest.fixture
    def likeness(self, found, grace, recognizer):
        """Cosine of a crop to Grace Hopper by onnxruntime, through the pack's own embedding."""
        from faceloom.models.crops.crop import crop_matrix
        from faceloom.models.crops.transformed import transform_face
        from faceloom.models.faces import Faces

        face = found["collins"][0]
        shown = Faces((transform_face(face, crop_matrix(face, 128)),), 1, 128, 128)
        return lambda crop: float(recognizer.embed(crop, shown)[0] @ grace.embeddings[recognizer.space])

    @pytest.mark.parametrize("decode", ["vae", "preview"])
    def test_likeness_rises_with_strength(self, paint, scene, grace, recognizer, likeness, decode):
        given = scene | {"identity": grace, "recognizer": recognizer, "guidance_decode": decode}
        pictures = [paint(**given, identity_strength=strength) for strength in (0.0, 0.25, 0.5, 1.0, 2.0)]
        cosines = [likeness(picture) for picture in pictures]
        assert cosines == sorted(cosines) and len(set(cosines)) == 5
        default = paint(**given)
        assert torch.equal(default, pictures[3])
        assert cosines[3] - cosines[0] > 0.3
        outside = scene["mask"] == 0
        assert torch.equal(default[outside], scene["crops"][outside])

    def test_a_window_without_steps_does_nothing(self, paint, scene, grace, recognizer):
        given = scene | {"identity": grace, "recognizer": recognizer}
        plain = paint(**given, identity_strength=0.0)
        assert torch.equal(paint(**given, guidance_start=0.5, guidance_end=0.45), plain)
        assert not torch.equal(paint(**given, guidance_start=0.5, guidance_end=1.0), plain)

    def test_through_a_real_vae_in_inference_mode(self, paint, sd15, crops, mask, grace, recognizer):
        given = sd15 | {"crops": crops[:1], "mask": mask, "identity": grace, "recognizer": recognizer}
        before = state(sd15["model"])
        off, on = (paint(**given, identity_strength=strength) for strength in (0.0, 1.0))
        assert 1e-4 < (on - off).abs().mean() < 0.2
        assert same_state(sd15["model"], before)

    def test_a_guided_batch_is_its_singles(self, paint, scene, grace, recognizer, found, hopper):
        """Each crop is seen where its own face is."""
        from dataclasses import replace

        from faceloom.models.crops.crop import crop_faces

        both = replace(found["collins"], items=found["collins"].items + found["hopper"].items)
        crops = torch.cat([scene["crops"], crop_faces(hopper, found["hopper"])])
        given = scene | {"identity": grace, "recognizer": recognizer, "steps": 1}
        batch = paint(**given | {"crops": crops, "faces": both})
        for i in range(2):
            single = paint(**given | {"crops": crops[i:i + 1], "faces": both.take([i])})
            assert (batch[i] - single[0]).abs().max() < 1e-4
        assert (batch[0] - batch[1])[60:80, 50:80].abs().max() > 1e-3

    @pytest.mark.parametrize("through", ["denoiser", "text"])
    def test_through_the_denoiser(self, paint, sd15, crops, mask, estimator, through):
        """The loss falls at a step that is guided, a LoRA is in force, and the user's MODEL is as it was."""
        from faceloom.models.diffusion import guidance
        from faceloom.nodes import _backprop

        model = sd15["model"].clone()
        key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"
        model.add_patches({key: ("diff", (torch.ones_like(model.model.state_dict()[key]),))}, 0.5)
        given = sd15 | {"model": model, "crops": crops[:1], "mask": mask, "gaze_strength": 1.0, "gaze_estimator": estimator,
                        "guide_through": through, "steps": 3}
        plain = paint(**given | {"gaze_strength": 0.0})
        before = state(model)
        guided = paint(**given)
        assert same_state(model, before)
        assert 1e-5 < (guided - plain).abs().mean() < 0.2
        with pytest.MonkeyPatch.context() as patch:  # with steps of no size it is the plain run: the copy computes the same
            patch.setattr(guidance, "STEP_SIZE", 0.0)
            patch.setattr(_backprop, "LEARNING_RATE", 0.0)
            assert (paint(**given) - plain).abs().max() < 1e-4

    def test_what_cannot_be_differentiated_is_one_sentence(self, pack, paint, sd15, crops, mask, estimator):
        """An adapter whose weights are inference tensors, as every loader node makes them."""
        from faceloom.models.errors import FaceLoomError

        model, weights = sd15["model"].clone(), torch.ones(1)
        assert weights.is_inference()
        model.set_model_attn2_output_patch(lambda out, options: out * weights)
        given = sd15 | {"model": model, "crops": crops[:1], "mask": mask, "gaze_strength": 1.0, "gaze_estimator": estimator}
        paint(**given)
        with pytest.raises(FaceLoomError, match="cannot be differentiated; set guide_through to x0"):
            paint(**given, guide_through="denoiser")

    def test_expression_is_held(self, paint, scene, hopper, found):
        """A parser of one convolution: its scores stay nearer to the target's."""
        from types import SimpleNamespace

        from faceloom.models.crops.crop import crop_faces
        from faceloom.models.diffusion.parsing import differentiable_parser
        from faceloom.models.files.catalogue import NetContract

        net = doubles.fill(torch.nn.Sequential(torch.nn.Conv2d(3, 19, 9, 4, 4)))
        parser = SimpleNamespace(name="bisenet", parse=net, model=SimpleNamespace(net=net),
                                 contract=NetContract("bisenet", size=128, mean=(0.5,) * 3, std=(0.2,) * 3))
        target = crop_faces(hopper, found["hopper"])
        given = scene | {"crops": target, "faces": found["hopper"], "parser": parser, "mask": torch.ones(1, 128, 128)}
        scores = differentiable_parser(parser)
        wanted = scores(target.movedim(-1, 1))
        errors = [float((scores(paint(**given, expression_strength=s).movedim(-1, 1)) - wanted).abs().mean()) for s in (0.0, 1.0, 4.0)]
        assert errors[0] > errors[1] > errors[2] and errors[2] < 0.9 * errors[0]

    def test_gaze_is_held(self, paint, scene, hopper, found, estimator):
        """The model paints Eileen Collins over Grace Hopper; her eyes look more and more where the target's do, and only the eyes move."""
        from faceloom.models.crops.crop import crop_faces
        from faceloom.models.diffusion.gaze import GazeLoss, eye_boxes

        target, boxes = crop_faces(hopper, found["hopper"]), eye_boxes(1, 128, found["hopper"])
        given = scene | {"crops": target, "faces": found["hopper"], "gaze_estimator": estimator}
        loss = GazeLoss(estimator.differentiable(), target.movedim(-1, 1), boxes)
        pictures = [paint(**given, gaze_strength=strength) for strength in (0.0, 0.25, 0.5, 1.0)]
        off = [float(loss(picture.movedim(-1, 1))) for picture in pictures]
        assert off[0] > off[1] > off[2] > off[3] and off[3] < 0.7 * off[0]
        away = torch.ones(128, 128, dtype=torch.bool)
        for x0, y0, x1, y1 in boxes[0]:
            away[y0 - 1:y1 + 1, x0 - 1:x1 + 1] = False
        assert torch.equal(pictures[3][0][away], pictures[0][0][away])

    def test_insightface_recognizer(self, paint, scene, grace, recognizer, shared):
        """An object of IP-Adapter's loader does what the same file in Load Face Recognizer does."""
        from types import SimpleNamespace

        network = SimpleNamespace(model_file=str(shared / "models" / "mobilefacenet_128.onnx"))
        connected = SimpleNamespace(models={"recognition": network}, get=None)
        given = scene | {"identity": grace, "steps": 1}
        assert torch.equal(paint(**given, recognizer=connected), paint(**given, recognizer=recognizer))


class TestGraph:
    """Through ComfyUI's executor, from a photograph to a photograph."""

    @pytest.fixture
    def graph(self, run_graph, pictures, sd15):
        from nodes import NODE_CLASS_MAPPINGS

        class Small:
            INPUT_TYPES = classmethod(lambda cls: {"required": {}})
            RETURN_TYPES = ("MODEL", "CONDITIONING", "CONDITIONING", "VAE")
            FUNCTION, CATEGORY = "load", "test"

            def load(self):
                return sd15["model"], sd15["positive"], sd15["negative"], sd15["vae"]

        NODE_CLASS_MAPPINGS["SmallDiffusion"] = Small
        settings = {"seed": 7, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.6, "blending": "soft",
                    "blend_start": 0.0, "blend_end": 0.6, "size": SIZE, "fix_color": True, "identity_strength": 1.0,
                    "expression_strength": 0.0, "gaze_strength": 0.0, "guidance_start": 0.0, "guidance_end": 1.0,
                    "views": 1, "guidance_decode": "preview", "guide_through": "x0"}
        links = {"model": ["4", 0], "positive": ["4", 1], "negative": ["4", 2], "vae": ["4", 3], "crops": ["2", 1], "mask": ["3", 0]}
        yield {
            "1": {"class_type": "LoadImage", "inputs": {"image": "target.png"}},
            "2": {"class_type": "FaceDetect", "inputs": {"image": ["1", 0], "threshold": 0.5, "order": "large-small", "keep": "all",
                                                         "crop_size": 256, "min_size": 0, "framing": 1.0, "no_face": "pass"}},
            "3": {"class_type": "FaceParseMask", "inputs": {"crops": ["2", 1], "faces": ["2", 0], "regions": "face", "grow": 0,
                                                            "feather": 16, "side": "inside"}},
            "4": {"class_type": "SmallDiffusion", "inputs": {}},
            "5": {"class_type": "DiffusionInpaintSwap", "inputs": settings | links},
            "6": {"class_type": "PasteBack", "inputs": {"image": ["1", 0], "faces": ["2", 0], "crops": ["5", 0], "mask": ["3", 0],
                                                        "color_match": "none", "blend": "feather", "feather": 0.0, "opacity": 1.0}},
            "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "diffusion"}},
        }
        del NODE_CLASS_MAPPINGS["SmallDiffusion"]

    def result(self, run_graph, base, graph, pictures) -> tuple[np.ndarray, np.ndarray]:
        from PIL import Image

        shown = run_graph(graph, ["7"])["7"]["images"][0]
        made = np.asarray(Image.open(base / "output" / shown["filename"])).astype(int)
        return made, (pictures["target"][0] * 255).round().numpy().astype(int)

    def test_only_the_face_is_repainted(self, run_graph, base, graph, pictures):
        made, target = self.result(run_graph, base, graph, pictures)
        changed = np.abs(made - target).max(-1)
        assert (changed[130:300, 190:340] > 8).mean() > 0.5
        assert changed[380:].max() == 0 and changed[:, :120].max() == 0 and changed[:, 420:].max() == 0

    def test_no_denoising_gives_the_photograph_back(self, run_graph, base, graph, pictures):
        graph["5"]["inputs"]["denoise"] = 0.0
        made, target = self.result(run_graph, base, graph, pictures)
        changed = np.abs(made - target)
        assert changed.mean() < 0.2 and np.percentile(changed, 99) <= 4  # what resampling to the crop and back costs

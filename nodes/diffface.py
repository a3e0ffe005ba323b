"""LoadDiffFace and DiffFaceSwap: a pixel-space diffusion model that paints faces, with its own sampler."""

from __future__ import annotations

from comfy_api.latest import io

from ..models.pixels.tensors import as_images
from ..models.systems import load as systems
from ..models.systems.diffface import PRESETS, LossWeights, Settings
from ._inputs import amount_input, mask_input, seed_input, target_and_source
from ._models import ResearchLoader, load, loading
from ._runtime import give, painter, show
from ._schema import Node
from ._sockets import DiffFace

OWN = "own"
DENOISER, PICTURE = "the denoiser", "the predicted picture"
ABSOLUTE, SQUARED = "absolute", "squared"


class LoadDiffFace(ResearchLoader, title="Load DiffFace", aliases=["diffface", "diffusion face swap", "Model.pt"], shows_text=True):
    """Loads DiffFace, a diffusion model that paints a source's face into a target: its denoiser, recognizer, parser and gaze estimator.
    """

    row_name = "diffface_unet"
    file_tooltip = ("The authors' Model.pt, looked for in models/faceloom/diffface, with Arcface.tar, FaceParser.pth and GazeEstimator.pt "
                    "beside it. Commercial use is not allowed.")

    outputs = [DiffFace.Output("diffface", tooltip="The networks, for DiffFace Swap.")]

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        system, text = load(file, "research", systems.SYSTEMS, systems.load_system, loading())
        missing = "" if system.model.net.gaze else "\nWithout GazeEstimator.pt the gaze cannot be held."
        return io.NodeOutput(system, ui=show(cls, text=text + missing))


def _weight(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=default, min=0.0, max=100000.0, step=10.0, advanced=True, tooltip=f"With own weights: {tooltip}")


def _time(name: str, default: float, tooltip: str) -> io.Input:
    return amount_input(name, default, f"With own weights: {tooltip}", advanced=True)


class DiffFaceSwap(Node, title="DiffFace Swap", aliases=["diffface", "diffusion face swap"]):
    """Paints the source's face into every crop with DiffFace, guided step by step by likeness, expression and gaze, and takes the most
    alike of several tries."""

    @classmethod
    def inputs(cls):
        return [
            DiffFace.Input("diffface", tooltip="From Load DiffFace."),
            *target_and_source(faces="from Face Detect",
                               crops="of any size; pictures of 256 pixels are painted, and Restore makes larger crops sharp again",
                               photos="DiffFace looks at the photos."),
            seed_input("The noise of the first face; the next ones use the numbers that follow.", default=404),
            io.Int.Input("steps", default=100, min=2, max=1000, tooltip="Steps of the whole noise schedule."),
            io.Int.Input("skip", default=25, min=0, max=999,
                         tooltip="How many of the first steps are left out: sampling starts from the target under that much noise."),
            io.Int.Input("repeats", default=4, min=1, max=64, tooltip="Tries per face. The most alike is taken."),
            io.Int.Input("place", default=1, min=1, max=64, advanced=True,
                         tooltip="Which of the tries to take: 1 is the most alike, 2 the next."),
            io.Combo.Input("gradient_through", options=[DENOISER, PICTURE], default=DENOISER,
                           tooltip="How guidance finds its way: through the denoiser as published, or only through the picture it "
                                   "predicts, which is three times as fast and needs half the memory, but guides more coarsely."),
            io.Combo.Input("weights", options=[*PRESETS, OWN], default="released",
                           tooltip="How firmly each expert pulls: as the released program has it, as the paper has it, or your own numbers "
                                   "below."),
            _weight("identity_weight", 6000.0, "how firmly the likeness pulls. Released 6000, paper 2000."),
            _weight("expression_weight", 200.0, "how firmly the parts of the face are held. Released 200, paper 150."),
            io.Combo.Input("expression_measure", options=[ABSOLUTE, SQUARED], default=ABSOLUTE, advanced=True,
                           tooltip="With own weights: how differences of the parser's scores count. Released absolute, paper squared."),
            _weight("gaze_weight", 200.0, "how firmly the look of the eyes is held. 0 needs no GazeEstimator.pt."),
            _time("gaze_from", 0.1, "the noise (0 none, 1 all) above which the gaze is held."),
            _time("gaze_to", 0.5, "the noise below which the gaze is held."),
            _weight("keep_weight", 50.0, "how firmly every pixel is held to the target's."),
            _time("full_from", 0.3, "the noise below which the whole face is painted; above it the target shines through. "
                                    "Released 0.3, paper 0.4."),
            io.Int.Input("views", default=8, min=1, max=32, advanced=True,
                         tooltip="With own weights: how many turned, shifted and slanted looks at the face the likeness is measured in."),
            mask_input("Where to paint, in crop space. Left unconnected, where DiffFace's parser sees skin, brows, eyes, nose, mouth and "
                       "lips."),
        ]

    outputs = [
        io.Image.Output("crops", tooltip="The painted crops. Outside the mask every pixel is the target's."),
        io.Mask.Output("mask", tooltip="Where it was painted, for Paste Back."),
    ]

    @classmethod
    def execute(cls, diffface, faces, crops, identity, seed, steps, skip, repeats, place, gradient_through, weights, identity_weight,
                expression_weight, expression_measure, gaze_weight, gaze_from, gaze_to, keep_weight, full_from, views, mask=None
                ) -> io.NodeOutput:
        images = as_images(crops, "crops")
        if not len(faces):
            return io.NodeOutput(give(images), give(images.new_zeros(images.shape[:3])))
        own = LossWeights(identity_weight, expression_weight, gaze_weight, keep_weight, expression_measure == SQUARED, gaze_from, gaze_to,
                          full_from, views)
        settings = Settings(steps, skip, repeats, PRESETS.get(weights, own), gradient_through == DENOISER, seed, place)
        progress, preview = painter()
        painted, where = diffface.swap(images, faces, identity, settings, masks=mask, progress=progress, show=preview)
        return io.NodeOutput(give(painted), give(where))

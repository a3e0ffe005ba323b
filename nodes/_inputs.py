"""The inputs and outputs that several nodes have, each with the words that are its own there."""

from __future__ import annotations

from comfy_api.latest import io

from ._sockets import FaceAnalysis, FaceDetector, FaceRecognizer, Faces, Identity, InsightFace


class FileList(io.Combo.Input):
    """A list of files. What is not listed is taken too, for a file may come later."""


def detector_input(tooltip: str) -> io.Input:
    """Returns an optional detector, insightface's objects included; ``as_detector`` or ``as_landmarker`` takes what comes in."""
    return io.MultiType.Input("detector", [FaceDetector, InsightFace, FaceAnalysis], optional=True, tooltip=tooltip)


def recognizer_input(tooltip: str) -> io.Input:
    """Returns an optional recognizer, insightface's objects included; ``as_recognizer`` takes what comes in."""
    return io.MultiType.Input("recognizer", [FaceRecognizer, InsightFace, FaceAnalysis], optional=True, tooltip=tooltip)


def target_and_source(faces: str, crops: str, photos: str) -> list[io.Input]:
    """Returns the faces and crops that a published diffusion system paints, and who they become.

    faces, crops: where the best ones come from. photos: a sentence on what the system looks at.
    """
    return [
        Faces.Input("faces", tooltip=f"The faces of these crops, {faces}."),
        io.Image.Input("crops", tooltip=f"The crops that came with these faces, {crops}."),
        Identity.Input("identity", tooltip=f"Who the faces become, from ArcFace Embed or Identity Load. {photos}"),
    ]


def crop_edge_inputs() -> list[io.Input]:
    """Returns how far a mask in crop space grows, and how soft its edge is."""
    return [
        io.Int.Input("grow", default=0, min=-256, max=256, step=1,
                     tooltip="Grows the mask by this many crop pixels; negative values shrink it."),
        io.Int.Input("feather", default=16, min=0, max=256, step=1, tooltip="How many crop pixels the edge fades over."),
    ]


def framing_input(asked: str, **more) -> io.Input:
    """Returns how much a crop takes in. asked: what it does at 1.0."""
    return io.Float.Input("framing", default=1.0, min=0.5, max=4.0, step=0.05,
                          tooltip=f"How much the crop takes in. 1.0 is {asked}, larger shows more hair and background.", **more)


def seed_input(tooltip: str, default: int = 0) -> io.Input:
    """Returns the seed of a sampler, which ComfyUI changes after every run if the user likes."""
    return io.Int.Input("seed", default=default, min=0, max=0xffffffffffffffff, control_after_generate=True, tooltip=tooltip)


def amount_input(name: str, default: float, tooltip: str, most: float = 1.0, **more) -> io.Input:
    """Returns a slider from 0 to ``most`` in steps of 0.05."""
    return io.Float.Input(name, default=default, min=0.0, max=most, step=0.05, tooltip=tooltip, **more)


def mask_input(tooltip: str) -> io.Input:
    """Returns an optional mask in crop space."""
    return io.Mask.Input("mask", optional=True, tooltip=tooltip)


def recut_outputs(how: str) -> list[io.Output]:
    """Returns faces that are cut anew, and their crops. how: what the faces are now."""
    return [
        Faces.Output("faces", tooltip=f"The same faces, {how}. Connect these to Paste Back and to every node after this one."),
        io.Image.Output("crops", tooltip="One square picture per face, cut anew. One black picture when there is no face."),
    ]


def conditioning_outputs(positive: str, negative: str, latent: str, mask: str) -> list[io.Output]:
    """Returns what a sampler needs to paint faces, and what Paste Back takes of its picture; all tooltips."""
    return [
        io.Conditioning.Output("positive", tooltip=positive),
        io.Conditioning.Output("negative", tooltip=negative),
        io.Latent.Output("latent", tooltip=latent),
        io.Mask.Output("mask", tooltip=mask),
    ]

"""Any value on any input of any node: a result or one sentence, never an error from the depths."""

from __future__ import annotations

import math
import types
from fractions import Fraction

import numpy as np
import pytest
import torch

SMALL = torch.full((1, 64, 64, 3), 0.5)
# By the kind of what they are; an input that takes one of them gives a result, and every other one sentence.
FOREIGN = {
    "nothing": None, "a word": "nonsense", "an empty word": "", "a long number in words": "9" * 5000, "a number": 3, "a fraction": 0.37,
    "a whole fraction": 64.0, "a negative number": -7,
    "NaN": math.nan, "infinity": math.inf, "a huge number": 10**400, "a NumPy number": np.int64(2),
    "a NumPy fraction": np.float32(0.5), "true": True, "bytes": b"x", "a list": [], "a list of nothing": [None], "a list of lists": [[[]]],
    "a list of pictures": [SMALL], "a list of words": ["x"], "a dict": {}, "a dict of nothing": {"frames": None, "image_size": None},
    "landmarks of nothing": {"frames": [None], "image_size": (600, 512)}, "landmarks of numbers": {"frames": [3], "image_size": 3},
    "a mesh": types.SimpleNamespace(vertices=SMALL, faces=SMALL), "an object": object(), "a class": dict, "a function": print,
    "an analysis without networks": types.SimpleNamespace(models=None), "an analysis of a list": types.SimpleNamespace(models=[1]),
    "an analysis of numbers": types.SimpleNamespace(models={key: types.SimpleNamespace(model_file=3) for key in (
        "detection", "recognition", "genderage", "landmark_2d_106")}),
    "a latent": {"samples": torch.zeros(1, 4, 8, 8)}, "a NumPy picture": np.zeros((1, 64, 64, 3), np.float32),
    "a scalar": torch.tensor(1.0),
    "a row": torch.zeros(5), "a mask": torch.ones(1, 64, 64), "several masks": torch.ones(3, 64, 64), "a wide mask": torch.ones(1, 8, 90),
    "no masks": torch.zeros(0, 64, 64), "a mask of no size": torch.zeros(1, 0, 0), "a picture": SMALL,
    "two pictures": SMALL.repeat(2, 1, 1, 1),
    "one picture without a batch": SMALL[0], "no pictures": torch.zeros(0, 64, 64, 3), "pictures without pixels": torch.zeros(1, 0, 64, 3),
    "two channels": torch.zeros(1, 64, 64, 2), "five channels": torch.zeros(1, 64, 64, 5), "channels first": torch.zeros(1, 3, 64, 64),
    "a clip of five dimensions": torch.zeros(1, 1, 64, 64, 3), "whole numbers": torch.ones(1, 64, 64, 3, dtype=torch.int64),
    "bytes of a picture": torch.ones(1, 64, 64, 3, dtype=torch.uint8), "truths": torch.ones(1, 64, 64, 3, dtype=torch.bool),
    "a mask of truths": torch.ones(1, 64, 64, dtype=torch.bool), "complex numbers": torch.zeros(1, 64, 64, 3, dtype=torch.complex64),
    "a complex mask": torch.zeros(1, 64, 64, dtype=torch.complex64), "NaN everywhere": torch.full((1, 64, 64, 3), math.nan),
    "a mask of NaN": torch.full((1, 64, 64), math.nan), "a sparse picture": SMALL.to_sparse(), "a picture on no device": SMALL.to("meta"),
    "boxes of nothing": [[None]], "boxes of words": [[{"x": "a", "y": 0, "width": 1, "height": 1}]], "boxes of lists": [[1, 2, 3, 4]],
    "NaN boxes": [[{"x": math.nan, "y": 0, "width": 9, "height": 9}]], "boxes as a tensor": torch.zeros(1, 4),
    "a huge box": [[{"x": -1e300, "y": 0, "width": 1e308, "height": 1e308}]],
}  # fmt: skip
# Nodes that only run beside a model file or a MODEL; what comes to their inputs is looked at before they work (see ``test_checks.py``).
ELSEWHERE = {"DiffFaceSwap", "DiffSwapEncode", "DiffusionInpaintSwap", "FaceAdapterEncode", "REFaceEncode", "SwapModelOptions",
             "TrainFaceLoRA"}  # fmt: skip


@pytest.fixture(scope="module")
def error(pack):
    from faceloom.models.errors import FaceLoomError

    return FaceLoomError


@pytest.fixture(scope="module")
def good(nodes, hopper, source):
    """For every node that runs by itself, arguments with which it does, one set for each choice that brings inputs of its own."""
    from comfy_api.latest import InputImpl, Types
    from faceloom.models.select.track import assign_tracks

    faces, crops, boxes, _ = nodes["FaceDetect"].execute(hopper, .5, "large-small", "all", 64, 0, 1.0, "pass").args
    mask = torch.ones(1, 64, 64)
    canny, method = {"hint": "canny", "low": 100, "high": 200}, {"method": "running mean", "reach": 2, "jump": 5.0}
    rules = [{"rule": "index", "index": "0"}, {"rule": "person", "person": "0"}, {"rule": "largest", "count": 1},
             {"rule": "size", "minimum": 0.0, "maximum": 0.0},
             {"rule": "score", "minimum": 0.0, "maximum": 0.0}, {"rule": "mask", "mask": torch.ones(1, 600, 512)},
             {"rule": "sex", "sex": "female", "image": hopper, "insightface": None},
             {"rule": "age", "minimum": 0.0, "maximum": 0.0, "image": hopper, "insightface": None},
             {"rule": "same-person", "identity": source, "image": hopper, "similarity": 0.0, "one_per_frame": True, "margin": 0.0,
              "recognizer": None},
             {"rule": "first-person", "image": hopper, "similarity": 0.0, "recognizer": None}]
    followed = assign_tracks(faces)
    video = InputImpl.VideoFromComponents(Types.VideoComponents(images=hopper, frame_rate=Fraction(25)))
    return {
        "FaceDetect": [{"image": hopper, "threshold": .5, "order": "large-small", "keep": "all", "crop_size": 64, "min_size": 0,
                        "framing": 1.0, "no_face": "pass", "detector": None, "face_landmarks": None, "bboxes": boxes,
                        "bbox_use": "box is the face"}],
        "FaceAlign": [{"image": hopper, "faces": faces, "alignment": "FFHQ quad", "crop_size": 64, "framing": 1.0}],
        "FaceSelect": [{"faces": faces, "rule": rule} for rule in rules],
        "FaceAssign": [{"faces": faces, "chosen": faces, "identity": source}],
        "FaceDetectVideo": [{"video": video, "threshold": .5, "order": "large-small", "keep": "all", "min_size": 0, "every": 8, "gap": 12,
                             "framing": 1.0, "detector": None, "recognizer": None}],
        "SwapVideo": [{"video": video, "faces": followed, "strength": 1.0, "fade": 0, "restore": 0.0, "codec": codec, "container": "auto",
                       "pixel_boost": 1, "crop_size": 64, "regions": "", "color_match": "none", "blend": "feather", "feather": 0.0,
                       "fidelity": .5, "identity": source, "swap_model": None, "restore_model": None, "parser": None, "occluder": None,
                       "mask": mask} for codec in ({"codec": "auto"}, {"codec": "h264", "quality": 30.0})],
        "FaceSmooth": [{"image": hopper, "faces": faces, "method": chosen, "gap": 0, "fill": 2} for chosen in (
            method, {"method": "kalman", "process": .03, "measure": .01}, {"method": "savitzky-golay", "window": 25, "order": 2})],
        "FaceKeypointsImage": [{"faces": faces, "where": "crop", "size": 64, "thickness": 1.0}],
        "FaceControlHints": [{"crops": crops, "hint": hint, "faces": faces} for hint in (canny, {"hint": "mesh"})],
        "FaceParseMask": [{"crops": crops, "regions": {"regions": "face"}, "grow": 0, "feather": 2, "side": "inside", "faces": faces,
                           "parser": None, "occluder": None, "image": None},
                          {"crops": crops, "regions": {"regions": "custom", "skin": True, "nose": False}, "grow": 0, "feather": 2,
                           "side": "both", "faces": faces, "parser": None, "occluder": torch.zeros(1, 600, 512), "image": hopper}],
        "ThreeDLandmarkMask": [{"faces": faces, "shape": "union", "grow": 0, "feather": 2, "crop_size": 64, "identity": source}],
        "OneShotSwap": [{"image": hopper, "faces": faces, "identity": source, "strength": 1.0, "which": "all", "pixel_boost": 1,
                         "swap_model": None, "mask": mask}],
        "Restore": [{"crops": crops, "fidelity": .5, "amount": 1.0, "restore_model": None, "image": hopper, "faces": faces, "mask": mask}],
        "PasteBack": [{"image": hopper, "faces": faces, "crops": crops, "color_match": "none", "blend": "feather", "feather": 0.0,
                       "opacity": 1.0, "mask": mask, "keep_gray": True}],
        "ArcFaceEmbed": [{"image": [hopper], "faces": [faces], "how": ["average"], "name": ["x"], "recognizer": [None]}],
        "IdentityBlend": [{"identities": {"identity0": source, "identity1": source}, "weights": "1, 1"}],
        "IdentitySave": [{"identity": source, "filename": "person", "if_exists": "overwrite"}],
        "IdentityLoad": [{"file": "person.safetensors"}],
        "IdentityForAdapters": [{"identity": source, "adapter": "PuLID", "count": 1, "size": 256, "padding": .15, "detector": None,
                                 "recognizer": None}],
        "DiffSwapSampler": [{"target_guidance": .01}],
        "LoadFaceDetector": [{"file": "built in", "age_and_sex": "none", "provider": "auto", "landmarks": "none"}],
        "LoadFaceRecognizer": [{"file": "built in", "provider": "auto"}],
        "LoadFaceParser": [{"parser": "built in", "occluder": "none", "provider": "auto"}],
        "LoadRestoreModel": [{"file": "built in", "provider": "auto"}],
        "LoadSwapModel": [{"file": "built in", "provider": "auto", "recognizer": None, "parser": None, "detector": None}],
        **{name: [{"file": "none.pth"}] for name in ("LoadDiffFace", "LoadDiffSwap", "LoadFaceAdapter", "LoadGazeEstimator", "LoadREFace")},
    }  # fmt: skip


def changed(given: dict, value) -> list[tuple[str, dict]]:
    """Every set of arguments in which one value, or one inside of a choice, is ``value``."""
    found = []
    for name, old in given.items():
        found.append((name, given | {name: [value] if isinstance(old, list) else value}))  # ComfyUI wraps them where a node takes lists
        if isinstance(old, dict):
            found += [(f"{name}.{inner}", given | {name: old | {inner: value}}) for inner in old]
    return found


def test_every_node_is_tried(nodes, good):
    assert set(nodes) == set(good) | ELSEWHERE


def try_foreign(nodes, good, error, kind: str, every: int = 1, first: int = 0) -> None:
    """Try one kind of value on every input, or on one of ``every`` inputs, from the ``first``."""
    failures, tries = [], [(name, place, arguments) for name, sets in good.items() for given in sets
                           for place, arguments in changed(given, FOREIGN[kind])]
    for name, place, arguments in tries[first::every]:
        try:
            results = nodes[name].execute(**arguments).args
        except error as refused:
            if "\n" in str(refused) or not str(refused).endswith(".") or len(str(refused)) > 600:
                failures.append(f"{name}.{place}: {refused}")
            continue
        except Exception as raw:
            failures.append(f"{name}.{place}: {type(raw).__name__} {raw}")
            continue
        for result in results:
            if isinstance(result, torch.Tensor) and not (float(result.min()) >= 0 and float(result.max()) <= 1):
                failures.append(f"{name}.{place}: from {float(result.min())} to {float(result.max())}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_value_gives_a_result_or_one_sentence(nodes, good, error, kind):
    try_foreign(nodes, good, error, kind, 10, list(FOREIGN).index(kind) % 10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_value_on_every_input(nodes, good, error, kind):
    try_foreign(nodes, good, error, kind)

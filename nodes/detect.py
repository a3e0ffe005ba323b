"""FaceDetect: find the faces of an image batch and cut their crops."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..models.crops.crop import cut_crops
from ..models.detect import bounding_boxes, detect_faces
from ..models.detect.overlay import draw_faces
from ..models.detect.seen import as_seen
from ..models.options.detect import BBOX_USES, NO_FACE, ORDERS, DetectSettings
from ..models.pixels.tensors import as_images
from ..models.pixels.tone import whites_of
from ._inputs import detector_input, framing_input
from ._runtime import PREVIEW_FRAMES, give_crops, listener, show
from ._schema import Node
from ._sockets import BoundingBox, FaceLandmarks, Faces, as_detector


class FaceDetect(Node, title="Face Detect", aliases=["face detection", "find faces", "face crop", "align face", "dlib"], shows_text=True):
    """Finds every face and cuts an upright, aligned square picture of each, the crop, that all other FaceLoom nodes work on."""

    @classmethod
    def inputs(cls):
        return [
            io.Image.Input("image", tooltip="The picture, or the frames of a clip, to look for faces in."),
            io.Float.Input("threshold", default=0.5, min=0.0, max=1.0, step=0.01,
                           tooltip="How sure the detector must be. Lower it when a face is missed, raise it when something else is taken "
                                   "for a face."),
            io.Combo.Input("order", options=list(ORDERS), default="large-small",
                           tooltip="How the faces of one frame are numbered, starting at 0. The preview shows the numbers."),
            io.String.Input("keep", default="all",
                            tooltip="Which faces of each frame to keep: all, first, or their numbers, for example 0,2. Negative numbers "
                                    "count from the end."),
            io.Int.Input("crop_size", default=512, min=64, max=4096, step=8, tooltip="Width and height of every crop in pixels."),
            io.Int.Input("min_size", default=0, min=0, max=8192, step=1, advanced=True,
                         tooltip="Ignore faces smaller than this many pixels in the picture. 0 keeps them all."),
            framing_input("the FFHQ framing that face networks expect", advanced=True),
            io.Combo.Input("no_face", options=list(NO_FACE), default="pass", advanced=True,
                           tooltip="What to do when a picture of the batch has no face: pass lets it through unchanged, error stops "
                                   "the run."),
            detector_input("The detector to use, from Load Face Detector or an InsightFace loader. Left unconnected, the built-in dlib "
                           "detector runs and needs no download."),
            FaceLandmarks.Input("face_landmarks", optional=True,
                                tooltip="Landmarks from ComfyUI's MediaPipe node. They are used instead of the detector."),
            io.BoundingBox.Input("bboxes", optional=True, force_input=True,
                                 tooltip="Boxes from any detection node. Faces are looked for in these boxes only."),
            io.Combo.Input("bbox_use", options=list(BBOX_USES), default=BBOX_USES[0], optional=True, advanced=True,
                           tooltip="What connected boxes are. look inside: the detector looks for faces in each box, and a box without a "
                                   "face gives none. box is the face: every box is taken for a face, whatever it shows, for boxes of a "
                                   "detector that found what this one cannot."),
        ]

    outputs = [
        Faces.Output("faces", tooltip="All faces that were kept, frame by frame, for the other FaceLoom nodes."),
        io.Image.Output("crops", tooltip="One upright square picture per face, in the order of the faces. One black picture when there is "
                                         "no face."),
        BoundingBox.Output("bboxes", tooltip="The box of every face per frame, for ComfyUI's own nodes. Crop Image takes the first "
                                             "face's."),
        io.Int.Output("count", tooltip="How many faces there are in the whole batch."),
    ]

    @classmethod
    def execute(cls, image, threshold, order, keep, crop_size, min_size, framing, no_face,
                detector=None, face_landmarks=None, bboxes=None, bbox_use=BBOX_USES[0]) -> io.NodeOutput:
        image = image[None] if image.ndim == 3 else image
        whites = whites_of(image)
        images = as_images(image, whites=whites)
        settings = DetectSettings(threshold, order, keep, min_size, crop_size, framing, no_face, bbox_use)
        notices: list[str] = []
        faces = detect_faces(as_seen(image), as_detector(detector), settings, face_landmarks=face_landmarks, bboxes=bboxes,
                             progress=listener(), notice=notices.append)
        faces, crops = cut_crops(images, replace(faces, whites=whites))
        crops = give_crops(crops, crop_size)
        text = ", ".join([_found(faces), *notices])
        return io.NodeOutput(faces, crops, bounding_boxes(faces), len(faces), ui=show(cls, _numbered(images, faces), text))


def _numbered(images, faces):
    """The first frames with their faces marked; faces come frame by frame, so their numbers stay the same."""
    first = images[:PREVIEW_FRAMES]
    return draw_faces(first, replace(faces, items=tuple(face for face in faces if face.frame < len(first)), frames=len(first)))


def _found(faces) -> str:
    if len(faces) == 0:
        return "no face found"
    text = f"{len(faces)} face" + ("s" if len(faces) > 1 else "")
    if faces.frames > 1:
        empty = faces.frames - len(set(faces.frame_indices.tolist()))
        text += f" in {faces.frames} frames" + (f", {empty} without a face" if empty else "")
    return text

"""FaceDetectVideo: find and follow the faces of a clip."""

from __future__ import annotations

from comfy_api.latest import Input, InputImpl, io

from ..models.clip.find import ClipSearch, FoundFaces, find_faces
from ..models.clip.follow import number_people
from ..models.clip.run import find_in_clip
from ..models.clip.who import people, who_is_there
from ..models.detect.seen import as_seen
from ..models.options.detect import ORDERS, DetectSettings
from ._inputs import detector_input, framing_input, recognizer_input
from ._runtime import give, listener, show
from ._schema import Node
from ._sockets import Faces, as_detector, as_recognizer
from ._video import clip_of


class FaceDetectVideo(Node, title="Face Detect (video)", shows_text=True,
                      aliases=["face detection video", "track faces", "find faces in video", "who is in the video", "face tracking"]):
    """Finds every face of a video and follows each person through it. It keeps where the faces are and no pictures, so that a video may be
    as long as you like."""

    @classmethod
    def inputs(cls):
        return [
            io.Video.Input("video", tooltip="The video to look for faces in, from Load Video."),
            io.Float.Input("threshold", default=0.5, min=0.0, max=1.0, step=0.01,
                           tooltip="How sure the detector must be. Lower it when a face is missed, raise it when something else is taken "
                                   "for a face."),
            io.Combo.Input("order", options=list(ORDERS), default="large-small", advanced=True,
                           tooltip="How the faces of one frame are numbered, starting at 0, for keep and for Face Select's index; and "
                                   "people by their largest face."),
            io.String.Input("keep", default="all", advanced=True,
                            tooltip="Which faces of each frame to keep: all, first, or their numbers, for example 0,2. To choose people, "
                                    "use Face Select instead."),
            io.Int.Input("min_size", default=0, min=0, max=8192, step=1,
                         tooltip="Ignore faces smaller than this many pixels in the picture, such as people in the background. 0 keeps "
                                 "them all."),
            io.Int.Input("every", default=8, min=1, max=1000, step=1,
                         tooltip="The whole frame is searched again after this many frames, at every cut, and where a face is lost. In "
                                 "between, faces are looked for where they were, which is much faster. Who comes in between two searches "
                                 "is followed back to where they came in."),
            io.Int.Input("gap", default=12, min=0, max=1000, step=1, advanced=True,
                         tooltip="A face that is missing for up to this many frames is followed by its place; after more, or a cut, it is "
                                 "known again by its features."),
            framing_input("the FFHQ framing that face networks expect", advanced=True),
            detector_input("The detector to use, from Load Face Detector or an InsightFace loader. Left unconnected, the built-in dlib "
                           "detector runs and needs no download."),
            recognizer_input("The network that knows people again after a cut, and where two of them cross. Left unconnected, the built-in "
                             "dlib network runs."),
        ]

    outputs = [
        Faces.Output("faces", tooltip="The faces of all frames with the number of their person, for Face Select, Face Smooth, Face Assign "
                                      "and Swap Video."),
        io.Image.Output("who", tooltip="A picture of who is there: one row a person, with number, first and last time, and when they are "
                                       "seen."),
        io.Int.Output("count", tooltip="How many people there are in the video."),
    ]

    @classmethod
    def execute(cls, video, threshold, order, keep, min_size, every, gap, framing, detector=None, recognizer=None) -> io.NodeOutput:
        search = ClipSearch(DetectSettings(threshold, order, keep, min_size, framing=framing), every, gap)
        found = number_people(_find(video, search, as_detector(detector), as_recognizer(recognizer)), order)
        everybody = people(found.faces, found.times)
        who = give(who_is_there(found, found.times)[None])
        return io.NodeOutput(found.faces, who, len(everybody), ui=show(cls, who, _said(found, [str(person) for person in everybody])))


def _find(video: Input.Video, search: ClipSearch, detector, recognizer) -> FoundFaces:
    """Reads a clip frame by frame; frames that are in memory are taken from there."""
    if isinstance(video, InputImpl.VideoFromComponents):
        parts = video.get_components()
        times = tuple(float(i / parts.frame_rate) for i in range(len(parts.images)))
        frames = (as_seen(image[None])[0] for image in parts.images)
        return find_faces(frames, search, detector, recognizer, count=len(times), times=times, progress=listener())
    with clip_of(video) as clip:
        return find_in_clip(clip.source, search, detector, recognizer, section=clip.section, progress=listener())


def _said(found: FoundFaces, everybody: list[str]) -> str:
    faces = found.faces
    if not len(faces):
        return f"no face found in {faces.frames} frames"
    first = f"{len(everybody)} {'person' if len(everybody) == 1 else 'people'} in {faces.frames} frames"
    empty = faces.frames - len(set(faces.frame_indices.tolist()))
    return "\n".join([first + (f", {empty} without a face" if empty else ""), *everybody])

"""The socket types of FaceLoom.

FACES carries ``models.faces.Faces`` and FACE_IDENTITY ``models.faces.Identity``. The model sockets accept any object that follows the
protocol in the ``__init__`` of the stage's folder under ``models/``; left unconnected, a node uses its built-in default.
"""

from __future__ import annotations

from comfy_api.latest import io

from ..models.detect import Detector
from ..models.detect.attributes import AgeAndSex
from ..models.face3d.points106 import Landmarker
from ..models.identity import Recognizer
from ..models.interop.insightface import attributes_of, detector_of, landmarker_of, recognizer_of

Faces = io.Custom("FACES")
Identity = io.Custom("FACE_IDENTITY")

FaceDetector = io.Custom("FACE_DETECTOR")
FaceRecognizer = io.Custom("FACE_RECOGNIZER")
FaceParser = io.Custom("FACE_PARSER")
FaceOccluder = io.Custom("FACE_OCCLUDER")
SwapModel = io.Custom("SWAP_MODEL")
RestoreModel = io.Custom("RESTORE_MODEL")
GazeEstimator = io.Custom("GAZE_ESTIMATOR")
REFace = io.Custom("REFACE")
DiffFace = io.Custom("DIFFFACE")
DiffSwap = io.Custom("DIFFSWAP")
FaceAdapter = io.Custom("FACE_ADAPTER")

# insightface's FaceAnalysis, as IP-Adapter and InstantID nodes pass it around; its files are used, see models/interop/insightface.py.
InsightFace = io.Custom("INSIGHTFACE")
FaceAnalysis = io.Custom("FACEANALYSIS")

# Core's own types, from its MediaPipe and detection nodes.
FaceLandmarks = io.Custom("FACE_LANDMARKS")
BoundingBox = io.Custom("BOUNDING_BOX")


def as_detector(connected) -> Detector | None:
    """What came in through a detector socket, as something that detects."""
    return connected if connected is None or isinstance(connected, Detector) else detector_of(connected)


def as_landmarker(connected) -> Landmarker | None:
    """The 106 landmarks of what came in through a detector socket."""
    return connected if connected is None else landmarker_of(connected)


def as_recognizer(connected) -> Recognizer | None:
    """What came in through a recognizer socket, as something that embeds."""
    return connected if connected is None or isinstance(connected, Recognizer) else recognizer_of(connected)


def as_attributes(connected) -> AgeAndSex | None:
    """The age and sex network of an insightface object."""
    return connected if connected is None else attributes_of(connected)

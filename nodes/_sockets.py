"""The socket types of FaceLoom.

FACES carries ``models.faces.Faces`` and FACE_IDENTITY ``models.faces.Identity``. The model sockets accept any object that follows the
protocol in the ``__init__`` of the stage's folder under ``models/``; left unconnected, a node uses its built-in default.
"""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "FaceLoom"

Faces = io.Custom("FACES")
Identity = io.Custom("FACE_IDENTITY")

FaceDetector = io.Custom("FACE_DETECTOR")
FaceRecognizer = io.Custom("FACE_RECOGNIZER")
FaceParser = io.Custom("FACE_PARSER")
FaceOccluder = io.Custom("FACE_OCCLUDER")
SwapModel = io.Custom("SWAP_MODEL")
RestoreModel = io.Custom("RESTORE_MODEL")

# Core's own types, from its MediaPipe and detection nodes.
FaceLandmarks = io.Custom("FACE_LANDMARKS")
BoundingBox = io.Custom("BOUNDING_BOX")

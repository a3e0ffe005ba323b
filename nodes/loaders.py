"""The loaders: detectors, recognizers, parsers and occluders, swap models and restorers from files on the user's disk.

Whatever they load is owned by their output alone, so that it goes when ComfyUI drops the output from its cache.
"""

from __future__ import annotations

from comfy_api.latest import io

from ..models.detect import load as detectors
from ..models.detect.with_attributes import DescribedDetector, LandmarkedDetector
from ..models.identity import load as recognizers
from ..models.parse import load as parsers
from ..models.restore import load as restorers
from ..models.swap import load as engines
from ..models.systems import load as systems
from ._inputs import detector_input, recognizer_input
from ._models import NONE, FileLoader, ResearchLoader, checked, file_input, load, loading, provider_input
from ._runtime import show
from ._schema import Node
from ._sockets import (
    FaceDetector,
    FaceOccluder,
    FaceParser,
    FaceRecognizer,
    GazeEstimator,
    RestoreModel,
    SwapModel,
    as_landmarker,
    as_recognizer,
)


class LoadSwapModel(FileLoader, title="Load Swap Model", shows_text=True,
                    aliases=["inswapper", "reswapper", "hyperswap", "simswap", "ghost", "dfm", "reactor", "face swap model", "reliableswap",
                             "megafs", "facedancer", "fslsd", "faceswap", "deepfakes"]):
    """Loads a one-shot face swap network: inswapper, reswapper, hyperswap, SimSwap, GHOST, HifiFace, UniFace, BlendSwap, DeepFaceLive
    files and others, and the authors' original files of GHOST, ReliableSwap, SimSwap, MegaFS, FaceDancer, FSLSD and faceswap."""

    @classmethod
    def inputs(cls):
        return [
            file_input(
                engines.ENGINES, "swap",
                "The swap network. Files are looked for in models/insightface, reswapper, hyperswap and faceloom/swap, research "
                "systems' original files in faceloom/ghost, reliableswap, simswap, megafs, facedancer, fslsd and deepfakes."),
            provider_input(),
            recognizer_input("The recognition network to make embeddings with, if it is of the kind the swap network was trained for. Left "
                             "unconnected, the right one is loaded from its file when it is needed."),
            FaceParser.Input("parser", optional=True,
                             tooltip="The face parser that research systems make their own masks with; FSLSD cannot do without. Left "
                                     "unconnected, BiSeNet is taken where it is on this machine. Other networks do not use it."),
            detector_input("A detector that brings 106 landmarks, for GHOST's own mask and for FSLSD, which cannot do without. Left "
                           "unconnected, 2d106det.onnx is taken where it is on this machine. Other networks do not use it."),
        ]

    outputs = [SwapModel.Output("swap_model", tooltip="The network, for One-Shot Swap or Swap Model Options.")]

    @classmethod
    def execute(cls, file, provider, recognizer=None, parser=None, detector=None) -> io.NodeOutput:
        given = loading(provider, recognizer=as_recognizer(recognizer), parser=parser, landmarker=as_landmarker(detector))
        engine, text = load(file, "swap", engines.ENGINES, engines.load_engine, given)
        return io.NodeOutput(engine, ui=show(cls, text=text))


class LoadFaceDetector(Node, title="Load Face Detector", shows_text=True,
                       aliases=["scrfd", "retinaface", "yolo face", "yunet", "mediapipe", "buffalo_l", "antelopev2", "genderage"]):
    """Loads a face detection network: SCRFD and RetinaFace of insightface's packs, YOLOv8-face, YuNet, or MediaPipe's 478 landmarks; if
    you like, with one that tells age and sex."""

    @classmethod
    def inputs(cls):
        return [
            file_input(detectors.DETECTORS, "detector",
                       "The detector. Files are looked for in models/insightface, facedetection and faceloom/detectors."),
            file_input(detectors.ATTRIBUTES, "attributes",
                       "A network that tells the age and sex of every face found, for the rules of Face Select.", "age_and_sex"),
            provider_input(),
            file_input(detectors.LANDMARKERS, "landmarker",
                       "A network for 106 landmarks, which GHOST and FSLSD look at faces with: connect the detector to Load Swap Model "
                       "too.", "landmarks", optional=True),
        ]

    outputs = [FaceDetector.Output("detector", tooltip="The detector, for Face Detect, Load Swap Model and Identity for Adapters.")]

    @classmethod
    def validate_inputs(cls, file, age_and_sex, landmarks=NONE):
        return checked(file, age_and_sex, landmarks)

    @classmethod
    def execute(cls, file, age_and_sex, provider, landmarks=NONE) -> io.NodeOutput:
        given = loading(provider)
        detector, text = load(file, "detector", detectors.DETECTORS, detectors.load_detector, given)
        if age_and_sex != NONE:
            attributes, more = load(age_and_sex, "attributes", detectors.ATTRIBUTES, detectors.load_attributes, given)
            detector, text = DescribedDetector(detector, attributes), f"{text}\n{more}"
        if landmarks != NONE:
            landmarker, more = load(landmarks, "landmarker", detectors.LANDMARKERS, detectors.load_landmarker, given)
            detector, text = LandmarkedDetector(detector, landmarker), f"{text}\n{more}"
        return io.NodeOutput(detector, ui=show(cls, text=text))


class LoadFaceRecognizer(FileLoader, title="Load Face Recognizer", shows_text=True,
                         aliases=["arcface", "insightface", "w600k_r50", "glintr100", "buffalo_l", "antelopev2", "face embedding"]):
    """Loads a face recognition network of ArcFace's kind: those of insightface's packs, of SimSwap and of GHOST, or any other that turns a
    face into a vector."""

    @classmethod
    def inputs(cls):
        return [
            file_input(recognizers.RECOGNIZERS, "recognizer",
                       "The recognition network. Files are looked for in models/insightface and faceloom/recognizers."),
            provider_input(),
        ]

    outputs = [FaceRecognizer.Output("recognizer", tooltip="The recognition network, for ArcFace Embed, Face Select, Load Swap Model, "
                                                           "Diffusion Inpaint Swap and Identity for Adapters.")]

    @classmethod
    def execute(cls, file, provider) -> io.NodeOutput:
        recognizer, text = load(file, "recognizer", recognizers.RECOGNIZERS, recognizers.load_recognizer, loading(provider))
        return io.NodeOutput(recognizer, ui=show(cls, text=text))


class LoadFaceParser(Node, title="Load Face Parser", shows_text=True,
                     aliases=["bisenet", "face parsing", "xseg", "occlusion", "sam", "segment anything", "faceswap"]):
    """Loads what masks are made with: a parsing network that labels hair, skin, eyes and so on, and a network that finds what hides the
    face."""

    @classmethod
    def inputs(cls):
        return [
            file_input(parsers.PARSERS, "parser",
                       "The parsing network, BiSeNet as ONNX or as the checkpoint 79999_iter.pth. Files are looked for in "
                       "models/faceloom/parsers.", "parser"),
            file_input(parsers.OCCLUDERS, "occluder",
                       "A network that finds hands, hair and microphones over the face: XSeg, Segment Anything, or faceswap's. Files "
                       "are looked for in models/faceloom/parsers and sams.", "occluder"),
            provider_input(),
        ]

    outputs = [
        FaceParser.Output("parser", tooltip="The parsing network, for Face Parse Mask, Load Swap Model, Diffusion Inpaint Swap, REFace "
                                            "Encode and Face-Adapter Encode."),
        FaceOccluder.Output("occluder", tooltip="The occlusion network, for Face Parse Mask."),
    ]

    @classmethod
    def validate_inputs(cls, parser, occluder):
        return checked(parser, occluder)

    @classmethod
    def execute(cls, parser, occluder, provider) -> io.NodeOutput:
        # An output of None leaves the socket it goes to as if nothing were connected, which is what the built-in entries mean.
        given, hiding = loading(provider), None
        parsing, text = load(parser, "parser", parsers.PARSERS, parsers.load_parser, given)
        if occluder != NONE:
            hiding, more = load(occluder, "occluder", parsers.OCCLUDERS, parsers.load_occluder, given)
            text = f"{text}\n{more}"
        return io.NodeOutput(parsing, hiding, ui=show(cls, text=text))


class LoadRestoreModel(FileLoader, title="Load Restore Model", shows_text=True,
                       aliases=["gfpgan", "codeformer", "gpen", "restoreformer", "vqfr", "face restore model"]):
    """Loads a face restoration network: GFPGAN, CodeFormer, GPEN, RestoreFormer++ or VQFR."""

    @classmethod
    def inputs(cls):
        return [
            file_input(restorers.RESTORERS, "restorer",
                       "The restoration network, as ONNX or as a checkpoint. Files are looked for in models/facerestore_models and "
                       "faceloom/restorers."),
            provider_input(),
        ]

    outputs = [RestoreModel.Output("restore_model", tooltip="The network, for Restore.")]

    @classmethod
    def execute(cls, file, provider) -> io.NodeOutput:
        # What is built in is None, as if nothing were connected to Restore.
        restorer, text = load(file, "restorer", restorers.RESTORERS, restorers.load_restorer, loading(provider))
        return io.NodeOutput(restorer, ui=show(cls, text=text))


class LoadGazeEstimator(ResearchLoader, title="Load Gaze Estimator", shows_text=True,
                        aliases=["eyenet", "gaze", "eye direction", "diffface"]):
    """Loads DiffFace's gaze estimator, with which Diffusion Inpaint Swap keeps the target's eyes looking where they look."""

    row_name = "diffface_gaze"
    file_tooltip = "The network GazeEstimator.pt of DiffFace. It is looked for in models/faceloom/diffface. Commercial use is not allowed."

    outputs = [GazeEstimator.Output("gaze_estimator", tooltip="The network, for Diffusion Inpaint Swap.")]

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        estimator, text = load(file, "research", systems.SYSTEMS, systems.load_system, loading())
        return io.NodeOutput(estimator, ui=show(cls, text=text))

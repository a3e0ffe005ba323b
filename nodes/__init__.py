"""What ComfyUI sees of FaceLoom: schemas, sockets, progress and previews. Nothing here computes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from ..models.runtime.memory import register_memory_freer
from ._devices import make_room
from ._models import register_folders
from .adapters import IdentityForAdapters
from .align import FaceAlign
from .control import FaceControlHints, FaceKeypointsImage
from .detect import FaceDetect
from .diffface import DiffFaceSwap, LoadDiffFace
from .diffswap import DiffSwapEncode, DiffSwapSampler, LoadDiffSwap
from .diffusion import DiffusionInpaintSwap
from .face_adapter import FaceAdapterEncode, LoadFaceAdapter
from .identity import ArcFaceEmbed, IdentityBlend
from .identity_files import IdentityLoad, IdentitySave, register_identity_folders
from .landmarks import ThreeDLandmarkMask
from .loaders import LoadFaceDetector, LoadFaceParser, LoadFaceRecognizer, LoadGazeEstimator, LoadRestoreModel, LoadSwapModel
from .parse import FaceParseMask
from .paste import PasteBack
from .reface import LoadREFace, REFaceEncode
from .restore import Restore
from .select import FaceSelect
from .smooth import FaceSmooth
from .swap import OneShotSwap
from .swap_options import SwapModelOptions
from .train import TrainFaceLoRA

NODES: list[type[io.ComfyNode]] = [
    FaceDetect, ArcFaceEmbed, FaceParseMask, ThreeDLandmarkMask, OneShotSwap, Restore, PasteBack,
    FaceSelect, IdentitySave, IdentityLoad, IdentityBlend,
    LoadSwapModel, LoadFaceDetector, LoadFaceRecognizer, LoadFaceParser, LoadRestoreModel, DiffusionInpaintSwap,
    FaceAlign,
    IdentityForAdapters, FaceKeypointsImage, FaceControlHints, LoadGazeEstimator,
    SwapModelOptions, FaceSmooth,
    LoadREFace, REFaceEncode,
    LoadFaceAdapter, FaceAdapterEncode,
    LoadDiffSwap, DiffSwapEncode, DiffSwapSampler,
    LoadDiffFace, DiffFaceSwap,
    TrainFaceLoRA,
]

register_memory_freer(make_room)
register_folders()
register_identity_folders()


class FaceLoomExtension(ComfyExtension):
    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES

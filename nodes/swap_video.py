"""SwapVideo: swap the faces of a clip and write it."""

from __future__ import annotations

import secrets
from pathlib import Path

import folder_paths
from comfy_api.latest import InputImpl, io

from ..models.clip.run import swap_clip
from ..models.clip.swap import ClipPlan, ClipSwapper
from ..models.files.video import CODECS, CONTAINERS, EncodeSettings, open_writer, probe, quality_of, suffix_for
from ..models.options.paste import BLENDS, COLORS, PasteSettings
from ..models.options.pipeline import BUILT_IN
from ..models.options.regions import read_regions
from ..models.options.restore import RestoreSettings
from ..models.options.swap import SwapSettings
from ..models.pipeline import Models, Settings
from ..models.restore import Restorer
from ..models.restore.descriptor import restorer_from_descriptor
from ..models.select.assign import check_anyone_known
from ..models.swap.load import load_engine
from ._devices import ComfyDevices, patcher_of
from ._inputs import amount_input
from ._runtime import show
from ._schema import Node
from ._sockets import FaceOccluder, FaceParser, Faces, Identity, RestoreModel, SwapModel
from ._video import Clip, clip_of, key_of, viewer


def _codecs() -> list[io.DynamicCombo.Option]:
    options = []
    for codec in CODECS:
        limits = None if codec == "auto" else quality_of(codec)
        inputs = [] if limits is None else [
            io.Float.Input("quality", default=limits[2], min=limits[0], max=limits[1], step=1.0,
                           tooltip="The encoder's constant rate factor: lower is better and makes larger files."),
        ]
        options.append(io.DynamicCombo.Option(codec, inputs))
    return options


class SwapVideo(Node, title="Swap Video", shows_text=True, hidden=[io.Hidden.prompt, io.Hidden.unique_id],
                aliases=["face swap video", "video face swap", "deepfake video", "reactor video", "roop"]):
    """Swaps the faces of a video of any length, frame by frame, and gives a video with the same sound, the same frames and the same
    times."""

    @classmethod
    def inputs(cls):
        return [
            io.Video.Input("video", tooltip="The video whose faces are swapped, the same one that went into Face Detect (video)."),
            Faces.Input("faces", tooltip="The faces of this video, from Face Detect (video), Face Select, Face Smooth or Face Assign."),
            Identity.Input("identity", optional=True,
                           tooltip="Who the faces become, from ArcFace Embed or Identity Load. Faces that have a person of their own, from "
                                   "Face Assign, become that one; without an identity here the others stay as they are."),
            amount_input("strength", 1.0, "How far to go: 0 keeps the target's face as it is, 1 is the full swap. Above 1 exaggerates the "
                                         "person; only networks that work with an embedding can do that.", most=2.0),
            io.Int.Input("fade", default=4, min=0, max=1000, step=1,
                         tooltip="Over how many frames a swap comes and goes where a person appears within a shot, leaves, or turns too "
                                 "far away. 0 switches at once."),
            amount_input("restore", 1.0, "How much of the restored face is mixed in; without a restore model sharpness and grain are "
                                         "matched to the video."),
            io.DynamicCombo.Input("codec", options=_codecs(),
                                  tooltip="How the video is encoded. auto takes the codec of the video itself, or H.264 where that cannot "
                                          "be written."),
            io.Combo.Input("container", options=["auto", *(suffix[1:] for suffix in CONTAINERS)], default="auto", advanced=True,
                           tooltip="The kind of file. auto takes the video's own kind where it can hold the codec."),
            io.Int.Input("pixel_boost", default=1, min=1, max=8, step=1, advanced=True,
                         tooltip="Runs a network at this multiple of its own resolution."),
            io.Int.Input("crop_size", default=0, min=0, max=4096, step=8, advanced=True,
                         tooltip="Width and height of the face crops in pixels. 0 takes for each person what their largest face needs."),
            io.String.Input("regions", default="", advanced=True,
                            tooltip="Where the new face may show, such as face or skin,nose,mouth. Empty is everywhere."),
            io.Combo.Input("color_match", options=list(COLORS), default="none", advanced=True,
                           tooltip="Fits the colours of the new face to the video around it, measured along the way of each person."),
            io.Combo.Input("blend", options=list(BLENDS), default="feather", advanced=True,
                           tooltip="How the edge is hidden: feather fades over the soft edge, multi-band fades coarse and fine detail "
                                   "separately, poisson continues the video's light into the face."),
            io.Float.Input("feather", default=0.0, min=0.0, max=0.5, step=0.01, advanced=True,
                           tooltip="Softens the edge inwards, as a part of the crop's width."),
            amount_input("fidelity", 0.5, "For restoration networks that can choose: 0 invents the most detail, 1 stays closest to the "
                                         "face.", advanced=True),
            SwapModel.Input("swap_model", optional=True,
                            tooltip="The swap network, from Load Swap Model. Left unconnected, the built-in 3-D warp of the source photo "
                                    "runs and needs no download."),
            io.MultiType.Input("restore_model", [RestoreModel, io.UpscaleModel], optional=True,
                               tooltip="A restoration network, from Load Restore Model or from ComfyUI's Load Upscale Model. Left "
                                       "unconnected, sharpness and grain are matched to the video."),
            FaceParser.Input("parser", optional=True,
                             tooltip="The face parsing network that finds the regions. Left unconnected, they are drawn from landmarks."),
            FaceOccluder.Input("occluder", optional=True,
                               tooltip="The network that finds what hides a face, such as a hand, which then stays in front."),
            io.Mask.Input("mask", optional=True,
                          tooltip="Where the new faces may show, in crop space: one mask for all, or one for each person by number."),
        ]

    outputs = [
        io.Video.Output("video", tooltip="The video with the new faces, a file that Save Video copies without encoding it again."),
    ]

    @classmethod
    def execute(cls, video, faces, strength, fade, restore, codec, container, pixel_boost, crop_size, regions, color_match, blend, feather,
                fidelity, identity=None, swap_model=None, restore_model=None, parser=None, occluder=None, mask=None) -> io.NodeOutput:
        settings = Settings(
            crop_size=crop_size or None, swap=SwapSettings(strength, pixel_boost),
            regions=read_regions(regions, parser is not None) if regions.strip() else (), restore=RestoreSettings(restore, fidelity),
            paste=PasteSettings(color_match, blend, feather))
        if restore_model is not None and not isinstance(restore_model, Restorer):
            restore_model = restorer_from_descriptor(restore_model, ComfyDevices(patcher_of(restore_model)))
        models = Models(swap_model or load_engine(BUILT_IN.engine), parser=parser, occluder=occluder, restorer=restore_model)
        check_anyone_known(faces, identity)
        source = None if identity is None else models.engine.prepare(identity)
        plan = ClipPlan(faces, source, models, settings, fade, mask)
        encode = EncodeSettings(codec["codec"], codec.get("quality"))
        with clip_of(video) as clip:
            key = key_of(clip, faces, identity, cls.hidden)
            path = _write(clip, plan, encode, container, key)
        text = f"{len(set(faces.frame_indices.tolist()))} of {faces.frames} frames swapped"
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui=show(cls, text=text))


def _write(clip: Clip, plan: ClipPlan, encode: EncodeSettings, container: str, key: str) -> Path:
    """Writes the swapped clip to ComfyUI's temporary folder; where an earlier run with the same key was stopped, it goes on there."""
    info = probe(clip.source)
    if clip.made and encode.codec == "auto":
        encode = EncodeSettings("h264")  # not that of the file that only holds the frames
    suffix = suffix_for(info, encode.codec) if container == "auto" and not clip.made else f".{'mp4' if container == 'auto' else container}"
    path = Path(folder_paths.get_temp_directory()) / f"faceloom_swap_{key or secrets.token_hex(8)}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    watch, progress = viewer()
    swapper = ClipSwapper(plan)
    section = clip.section
    with open_writer(path, clip.source, info, encode, window=(section.start, section.end), key=key or None) as writer:
        swap_clip(clip.source, writer, swapper, section=section, watch=watch, progress=progress)
    return path

"""What the nodes for clips share: a VIDEO as something that is read frame by frame, and what is shown while it is worked on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import comfy.cli_args
import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import Input, InputImpl
from PIL import Image

from ..models.clip.run import Section
from ..models.faces import Faces, Identity
from ..models.files.video import write_lossless
from ..models.pixels.tensors import as_images

PREVIEW_SECONDS = 0.3  # between two previews of the frame that is worked on


@dataclass(frozen=True)
class Clip:
    """A VIDEO that can be read frame by frame. source: path or BytesIO. made: it holds frames that were made in the graph, not a file of
    the user's."""

    source: str | BytesIO
    section: Section
    made: bool = False


@contextmanager
def clip_of(video: Input.Video) -> Iterator[Clip]:
    """Gives what reads a VIDEO. Frames that are in memory are written to a file that is there as long as the ``with`` block."""
    if isinstance(video, InputImpl.VideoFromComponents):
        parts = video.get_components()
        sound = None if parts.audio is None else (parts.audio["waveform"][0], int(parts.audio["sample_rate"]))
        os.makedirs(folder_paths.get_temp_directory(), exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder_paths.get_temp_directory()) as folder:
            path = Path(folder) / "frames.mkv"
            write_lossless(path, as_images(parts.images), parts.frame_rate, bits=video.get_bit_depth(), sound=sound)
            yield Clip(str(path), Section(), made=True)
        return
    start, duration = video.get_active_trim_window()
    yield Clip(video.get_stream_source(), Section(start or None, start + duration if duration else None))


def viewer() -> tuple[Callable[[int, int, Callable[[], torch.Tensor]], None], Callable[[int, int], None]]:
    """Returns what is told of every frame of a clip, and of every face of the frames that are worked on.

    The first moves the node's bar and shows the frame on the node a few times a second, where the user wants previews; both stop the work
    when the user presses Cancel.
    """
    bar, shown = comfy.utils.ProgressBar(1), [0.0]
    previews = comfy.cli_args.args.preview_method != comfy.cli_args.LatentPreviewMethod.NoPreviews

    def watch(done: int, total: int, picture: Callable[[], torch.Tensor]) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview, now = None, time.monotonic()
        if previews and (now - shown[0] >= PREVIEW_SECONDS or done == total):
            shown[0] = now
            pixels = picture().clamp(0, 1).mul(255).round().to(device="cpu", dtype=torch.uint8).numpy()
            preview = ("JPEG", Image.fromarray(pixels), comfy.cli_args.args.preview_size)
        bar.update_absolute(done, max(total, 1), preview)

    def progress(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    return watch, progress


def key_of(clip: Clip, faces: Faces, identity: Identity | None, hidden: Any) -> str:
    """Returns a name for everything that decides what a node makes of a clip, so that a run that was stopped goes on only with the same.

    What is connected is named by the part of the graph that makes it. hidden: the node's, with the graph and the node's number; where that
    is not known, as in scripts, the name is "".
    """
    prompt, node_id = (hidden.prompt, str(hidden.unique_id)) if hidden is not None else (None, "")
    if not prompt or node_id not in prompt or isinstance(clip.source, BytesIO) or clip.made:
        return ""
    state = os.stat(clip.source)
    said = json.dumps(_above(prompt, node_id), sort_keys=True, default=str)
    digest = hashlib.sha256(repr((os.path.realpath(clip.source), state.st_size, state.st_mtime_ns, clip.section, said)).encode())
    for person in (identity, *(face.identity for face in faces)):
        if person is not None:
            digest.update(person.crops.tobytes())
    for face in faces:
        digest.update(repr((face.frame, face.track)).encode() + face.keypoints.tobytes())
    return digest.hexdigest()[:32]


def _above(prompt: dict, node_id: str) -> dict:
    """Returns the node and all that it depends on, of a graph in API form."""
    found: dict = {}
    waiting = [node_id]
    while waiting:
        at = waiting.pop()
        if at in found or at not in prompt:
            continue
        found[at] = {"class_type": prompt[at].get("class_type"), "inputs": prompt[at].get("inputs", {})}
        waiting += [str(value[0]) for value in found[at]["inputs"].values() if isinstance(value, list) and len(value) == 2]
    return found

"""Clips: FaceLoom's two passes beside a loop through picture files, as FaceFusion runs one, and beside the IMAGE-batch graph.

A clip is a picture with one face of 300 pixels that moves, in H.264. The costless detector knows where the face is and the costless engine
turns crops into their negatives, so that what is left is reading, converting, pasting and writing. Loop and graph use the same engine and
the same encoder. FaceFusion itself is not needed: its sequence (3.8, default settings: every frame is extracted to a PNG file, each file is
read, swapped and written, and all are encoded) is written anew here from a description.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from faceloom.models.clip.find import ClipSearch
from faceloom.models.clip.frames import swap_frames
from faceloom.models.clip.run import find_in_clip, swap_clip
from faceloom.models.clip.swap import ClipPlan, ClipSwapper
from faceloom.models.crops.crop import crop_faces
from faceloom.models.detect import detect_faces
from faceloom.models.faces import Face, Faces, Identity
from faceloom.models.files.video import ClipFrame, EncodeSettings, open_writer, probe, read_frames
from faceloom.models.options.restore import RestoreSettings
from faceloom.models.paste import paste
from faceloom.models.pipeline import Clock, Models, Settings, swap_photograph
from faceloom.models.pixels.tensors import to_uint8
from faceloom.models.runtime.memory import return_freed_blocks
from faceloom.models.swap import swap_faces
from faceloom.models.swap.load import load_engine
from PIL import Image

from bench.measure import ratio
from bench.paste import build_frame
from bench.people import people

REACH = 32  # pixels over which the face moves, there and back
PLAIN = Settings(restore=RestoreSettings(0))  # nothing but the swap
QUICK = EncodeSettings("h264", options={"preset": "ultrafast"})  # where encoding is not what is measured
ENCODE = EncodeSettings("h264")
NOBODY = Identity({}, np.zeros((0, 1, 1, 3), np.float32), ())  # whom the costless engine makes of everybody


class Remembering:
    """A detector that knows the faces of each frame, which come one after another."""

    name = "remembering"

    def __init__(self, faces: list[list[Face]]) -> None:
        self.faces, self.at = faces, 0

    def detect(self, images: torch.Tensor, threshold: float, progress=None) -> list[list[Face]]:
        self.at += len(images)
        return [list(found) for found in self.faces[self.at - len(images) : self.at]]


class Nobody:
    """A recognizer to whom all are alike."""

    space = "dlib128"

    def embed(self, images: torch.Tensor, faces: Faces, progress=None) -> np.ndarray:
        return np.tile(np.float32([[1, 0]]), (len(faces), 1))


class Negative:
    """A swap engine that costs nothing: the negative of the crop, in a square mask."""

    name = "negative"

    def prepare(self, identity: Identity) -> Identity:
        return identity

    def swap(self, images, faces, source, settings=None, progress=None) -> tuple[torch.Tensor, torch.Tensor]:
        crops = 1 - crop_faces(images, faces)
        edge = faces.crop_size
        masks = torch.zeros(len(faces), edge, edge)
        masks[:, edge // 8 : -edge // 8, edge // 8 : -edge // 8] = 1
        return crops, masks


class Nowhere:
    """A writer that drops its frames."""

    frames_done, last_pts = 0, None

    def write(self, frame: ClipFrame, image=None, alpha=None, part=None) -> None:
        """Take a frame and do nothing with it."""


def make_clip(path: Path, portrait: torch.Tensor, face: Face, size: tuple[int, int], count: int, *, people: bool = True, times: int = 1
              ) -> list[list[Face]]:
    """Write a clip of ``count`` frames of the face, moving over a grainy ground, ``times`` over; without ``people`` the ground alone.
    Returns the faces of each frame."""
    import av

    height, width = size
    canvas, placed = build_frame(portrait, face, (height + REACH, width + REACH), 1)
    ground = canvas[0] if people else torch.full_like(canvas[0], 0.5)
    grain = torch.randn(ground.shape, generator=torch.Generator().manual_seed(0)) * 0.02
    pixels, packets = to_uint8((ground + grain).clamp(0, 1)), []
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "20", "g": "50", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(count):
            at = _offset(number)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[at : at + height, at : at + width]), "rgb24")
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for turn in range(times):  # the same packets again, which takes no time
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.stream, again.time_base, again.is_keyframe = stream, packet.time_base, packet.is_keyframe
                again.pts = packet.pts + turn * round(Fraction(count, 25) / packet.time_base)
                again.dts = again.pts
                file.mux(again)
    return (moving(placed[0], count) if people else [[]] * count) * times


def _offset(number: int) -> int:
    """Return by how many pixels a frame is moved, to the left and up."""
    return abs(number % (2 * REACH) - REACH)


def moving(face: Face, count: int) -> list[list[Face]]:
    """Return where the face is in each frame. face: where it is in the picture that the frames are taken from."""
    return [[_shifted(face, -_offset(number))] for number in range(count)]


def _shifted(face: Face, by: int) -> Face:
    """Return a face moved by pixels to the right and down."""
    points68 = None if face.points68 is None else face.points68 + by
    return replace(face, box=face.box + by, keypoints=face.keypoints + by, points68=points68)


def find(path: Path, known: list[list[Face]]) -> Faces:
    """Pass one with the costless detector."""
    return find_in_clip(path, ClipSearch(), Remembering(known), Nobody()).faces  # type: ignore[arg-type]


def swap(path: Path, out: Path, faces: Faces, identity: Identity, encode: EncodeSettings = ENCODE) -> None:
    """Pass two with the costless engine."""
    with open_writer(out, path, probe(path), encode) as writer:
        swap_clip(path, writer, costless(faces, identity))


def costless(faces: Faces, identity: Identity) -> ClipSwapper:
    """What swaps with the costless engine."""
    return ClipSwapper(ClipPlan(faces, identity, Models(Negative()), PLAIN))


def through_files(path: Path, out: Path, known: list[list[Face]], identity: Identity, suffix: str) -> None:
    """Swap a clip by way of a picture file for every frame."""
    info = probe(path)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        times = []
        with read_frames(path) as frames:
            for frame in frames:
                times.append((frame.pts, frame.duration))
                _save(Path(folder) / f"{frame.index:08}{suffix}", to_uint8(frame.image()))
        for number, found in enumerate(known):
            file = Path(folder) / f"{number:08}{suffix}"
            image = _load(file)[None]
            faces = Faces(tuple(replace(face, frame=0) for face in found), 1, *image.shape[1:3], crop_size=320)
            crops, masks = swap_faces(image, faces, identity, Negative())
            _save(file, to_uint8(paste(image, faces, crops, masks)[0][0]))
        with open_writer(out, None, info, ENCODE) as writer:
            for number, (pts, duration) in enumerate(times):
                pixels = (_load(Path(folder) / f"{number:08}{suffix}") * 255).round().byte().numpy()
                writer.write(ClipFrame(number, pts, duration, info.time_base, full_range=True, matrix=0, pixels=pixels))


def _save(path: Path, pixels: np.ndarray) -> None:
    """Write a picture as quickly as its format can be written well."""
    Image.fromarray(pixels).save(path, **({"compress_level": 1} if path.suffix == ".png" else {"quality": 95}))


def _load(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).float() / 255


def as_batch(path: Path, out: Path, known: list[list[Face]], identity: Identity) -> None:
    """Swap a clip as the graph does that holds it as one IMAGE batch: all frames are decoded, swapped and pasted, and encoded."""
    info, times, pictures = probe(path), [], []
    with read_frames(path) as frames:
        for frame in frames:
            times.append((frame.pts, frame.duration))
            pictures.append(frame.image())
    images = torch.stack(pictures)
    del pictures
    items = tuple(replace(face, frame=number) for number, found in enumerate(known) for face in found)
    faces = Faces(items, *images.shape[:3], crop_size=320)
    crops, masks = swap_faces(images, faces, identity, Negative())
    result = paste(images, faces, crops, masks)[0]
    with open_writer(out, None, info, ENCODE) as writer:
        for number, (pts, duration) in enumerate(times):
            writer.write(ClipFrame(number, pts, duration, info.time_base, full_range=True, matrix=0, pixels=to_uint8(result[number])))


def seconds(task: Callable[[], object]) -> float:
    """Seconds that a task takes."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def best(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of each task, the least of ``repeats`` in turns: what disturbs a run only makes it longer."""
    return {name: min(values) for name, values in _in_turns(tasks, repeats).items()}


def _in_turns(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            times[name].append(seconds(task))
    return times


def measure_loops(portrait: torch.Tensor, face: Face, folder: Path, size: tuple[int, int], count: int, repeats: int) -> dict:
    """Frames per second of our two passes, of the loop through PNG and through JPEG files, and of the IMAGE-batch graph."""
    path, out = folder / "loops.mp4", folder / "out.mp4"
    known = make_clip(path, portrait, face, size, count)
    nobody = NOBODY
    faces = find(path, known)
    times = best({
        "find": lambda: find(path, known), "swap": lambda: swap(path, out, faces, nobody),
        "png": lambda: through_files(path, out, known, nobody, ".png"), "jpeg": lambda: through_files(path, out, known, nobody, ".jpg"),
        "batch": lambda: as_batch(path, out, known, nobody)}, repeats)
    ours = times["find"] + times["swap"]
    return {"frames": count, "find_fps": count / times["find"], "swap_fps": count / times["swap"], "clip_fps": count / ours,
            **{f"{name}_fps": count / times[name] for name in ("png", "jpeg", "batch")},
            **{f"{name}_ratio": ratio(times[name], ours) for name in ("png", "jpeg", "batch")}}


def measure_overlap(portrait: torch.Tensor, face: Face, folder: Path, size: tuple[int, int], count: int, repeats: int) -> dict:
    """Milliseconds a frame of decoding, of swapping and of encoding alone, and of all three as pass two runs them."""
    path, out = folder / "overlap.mp4", folder / "out.mp4"
    known = make_clip(path, portrait, face, size, count)
    faces, nobody = find(path, known), NOBODY
    swapper = costless(faces, nobody)
    with read_frames(path) as frames:
        kept = list(frames)

    class Shown:
        def __init__(self, frame: ClipFrame) -> None:
            self.frame = frame

        def image(self, box) -> torch.Tensor:
            return self.frame.image(box.slices)

    def decode() -> None:
        with read_frames(path, convert=swapper.has_faces) as frames:
            for _ in frames:
                pass

    def encode() -> None:
        with open_writer(out, path, probe(path), ENCODE) as writer:
            for frame in kept:
                writer.write(frame)

    def compute() -> None:
        for _ in swap_frames(map(Shown, kept), swapper):
            pass

    times = best({"decode": decode, "compute": compute, "encode": encode, "all": lambda: swap(path, out, faces, nobody)}, repeats)
    parts = [times[name] for name in ("decode", "compute", "encode")]
    return {f"{name}_ms": 1000 * value / count for name, value in times.items()} | {
        "all_by_sum": round(times["all"] / sum(parts), 2), "all_by_longest": round(times["all"] / max(parts), 2)}


def measure_faceless(portrait: torch.Tensor, face: Face, folder: Path, size: tuple[int, int], count: int, repeats: int) -> dict:
    """Milliseconds of a frame without a face: decoding alone, each pass without its encoder, and of a frame with a face."""
    path, peopled = folder / "faceless.mp4", folder / "peopled.mp4"
    known, there = make_clip(path, portrait, face, size, count, people=False), make_clip(peopled, portrait, face, size, count)
    nobody, faces, with_faces = NOBODY, find(path, known), find(peopled, there)

    def decode() -> None:
        with read_frames(path, convert=False) as frames:
            for _ in frames:
                pass

    times = best({"decode": decode, "find": lambda: find(path, known),
                  "swap": lambda: swap_clip(path, Nowhere(), costless(faces, nobody)),  # type: ignore[arg-type]
                  "with_face": lambda: swap_clip(peopled, Nowhere(), costless(with_faces, nobody))}, repeats)  # type: ignore[arg-type]
    return {f"{name}_ms": 1000 * value / count for name, value in times.items()} | {
        "find_by_decode": round(times["find"] / times["decode"], 2), "swap_by_decode": round(times["swap"] / times["decode"], 2)}


def measure_built_in(portrait: torch.Tensor, face: Face, identity: Identity, folder: Path, size: tuple[int, int], count: int, repeats: int
                     ) -> dict:
    """Milliseconds a frame of the built-in detector and engine over a clip, in both passes, and over its frames as single pictures."""
    path, out = folder / "built in.mp4", folder / "out.mp4"
    make_clip(path, portrait, face, size, count)
    models = Models(load_engine("mesh"))
    source = models.engine.prepare(identity)
    with read_frames(path) as frames:
        pictures = [frame.image()[None] for frame in frames][:: max(1, count // 12)]
    found: list[Faces] = []

    def both() -> None:
        found[:] = [find_in_clip(path, ClipSearch(every=8)).faces]
        with open_writer(out, path, probe(path), ENCODE) as writer:
            swap_clip(path, writer, ClipSwapper(ClipPlan(found[0], source, models, PLAIN)))

    def single() -> None:
        for picture in pictures:
            swap_photograph(picture, source, models, PLAIN, Clock())

    def parts() -> None:
        for picture in pictures:
            faces = detect_faces(picture)
            crops, masks = swap_faces(picture, faces, source, models.engine)
            paste(picture, faces, crops, masks)

    both()
    assert len(found[0]) == count  # a clip in which the face is not found is no contest
    times = best({"both": both, "parts": parts, "single": single}, repeats)
    clip, apart, whole = 1000 * times["both"] / count, *(1000 * times[name] / len(pictures) for name in ("parts", "single"))
    return {"frames": count, "clip_ms": clip, "pictures_ms": apart, "photographs_ms": whole, "ratio": ratio(apart, clip),
            "photographs_ratio": ratio(whole, clip)}


def measure_memory(portrait: torch.Tensor, face: Face, folder: Path, size: tuple[int, int], counts: dict[str, list[int]]
                   ) -> dict[str, dict[int, float]]:
    """Megabytes that a process of its own has at most: by engine (``costless`` or ``built in``) and number of frames."""
    peaks: dict[str, dict[int, float]] = {}
    for engine, numbers in counts.items():
        for count in numbers:
            once = min(count, 100)
            path = folder / f"{count}.mp4"
            make_clip(path, portrait, face, size, once, times=count // once)
            done = subprocess.run([sys.executable, "-m", "bench.clips", engine, str(path), str(once), str(count // once)], check=True,
                                  capture_output=True, text=True, cwd=Path(__file__).parents[1])
            peaks.setdefault(engine, {})[count] = json.loads(done.stdout.splitlines()[-1])
            path.unlink()
            print(f"memory of {count} frames with the {engine} engine measured", file=sys.stderr)
    return peaks


def measure_clips(portrait: torch.Tensor, face: Face, identity: Identity, quick: bool, repeats: int) -> dict:
    """All figures of clips. quick: few frames and small ones."""
    size, small = ((360, 640), (360, 640)) if quick else ((1080, 1920), (720, 1280))
    count = 24 if quick else 96
    memory = {"costless": [32, 64]} if quick else {"costless": [300, 3000], "built in": [100, 300]}
    report: dict = {"width": size[1], "height": size[0], "built_in_width": small[1], "built_in_height": small[0]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, measure in (("loops", measure_loops), ("overlap", measure_overlap), ("faceless", measure_faceless)):
            report[what] = measure(portrait, face, folder, size, count, repeats)
            print(f"clips, {what} measured", file=sys.stderr)
        report["built_in"] = measure_built_in(portrait, face, identity, folder, small, count, repeats)
        report["peak_mb"] = measure_memory(portrait, face, folder, size, memory)
    return report


def table_of(report: dict) -> list[str]:
    """The lines of these figures for a terminal."""
    loops, overlap, faceless, built_in = (report[name] for name in ("loops", "overlap", "faceless", "built_in"))
    loop = ", ".join(f"{name} {loops[f'{key}_fps']:.1f} ({loops[f'{key}_ratio']:.1f}x)"
                     for key, name in (("png", "loop through PNG files"), ("jpeg", "through JPEG files"), ("batch", "IMAGE batch")))
    peaks = ", ".join(f"{engine} engine {peak:.0f} MB with {count} frames"
                      for engine, counts in report["peak_mb"].items() for count, peak in counts.items())
    return [
        f"Clips of {report['width']}x{report['height']} with one face, costless engine, H.264; x = ours over theirs.",
        f"  frames per second: two passes {loops['clip_fps']:.1f} (finding {loops['find_fps']:.1f}, swapping {loops['swap_fps']:.1f}), "
        f"{loop}",
        f"  ms a frame: decoding {overlap['decode_ms']:.1f}, drawing {overlap['compute_ms']:.1f}, encoding {overlap['encode_ms']:.1f}; "
        f"together {overlap['all_ms']:.1f}, {overlap['all_by_sum']:.2f} of their sum",
        f"  ms a frame without a face: decoding {faceless['decode_ms']:.1f}, pass one {faceless['find_ms']:.1f}, pass two without encoding "
        f"{faceless['swap_ms']:.1f} ({faceless['swap_by_decode']:.2f}x decoding); with a face {faceless['with_face_ms']:.1f}",
        f"  built-in detector and engine at {report['built_in_width']}x{report['built_in_height']}, ms a frame: clip "
        f"{built_in['clip_ms']:.0f}, the same frames as pictures {built_in['pictures_ms']:.0f} ({built_in['ratio']:.1f}x)",
        f"  peak memory of the whole process: {peaks}"]


def run_alone(engine: str, path: Path, once: int, times: int) -> None:
    """Swap a clip in this process and print the megabytes that it had at most."""
    import resource

    return_freed_blocks()  # as the command line does
    faces, portrait, identity = people()
    out, info = path.with_suffix(".out.mp4"), probe(path)
    if engine == "costless":
        placed = build_frame(portrait, faces[0], (info.height + REACH, info.width + REACH), 1)[1]
        swap(path, out, find(path, moving(placed[0], once) * times), identity, QUICK)
    else:
        models = Models(load_engine("mesh"))
        faces = find_in_clip(path, ClipSearch(every=8)).faces
        with open_writer(out, path, info, QUICK) as writer:
            swap_clip(path, writer, ClipSwapper(ClipPlan(faces, models.engine.prepare(identity), models, Settings(), fade=4)))
    print(json.dumps(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)))


if __name__ == "__main__":
    run_alone(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

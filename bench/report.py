"""Speed and memory side by side with others in one run: crop, paste and built-in swap, network engines from frame to frame, the
research systems' engines, and clips.

Every figure is the median of repeated runs in which all contestants take turns in short bursts. A face is 300 pixels (less only where
many share a frame): the edge of the square that insightface aligns.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from bench import clips, engines, paste
from bench.measure import machine, threads
from bench.paste import CROP, FACE, build_frame
from bench.people import people
from bench.systems import measure_systems

FRAMES = {"720p": (720, 1280), "1080p": (1080, 1920), "4K": (2160, 3840)}
SECTIONS = ("paste", "engines", "video")
HOW_TO_GET = "insightface is not installed, so there is nothing to compare with; run: python -m pip install insightface"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``[--json] [--quick | --full] [--only SECTION] [--device DEVICE] [--repeats N] [--threads N]``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="720p and 1080p, one face, few repeats, no network of real cost")
    extent.add_argument("--full", action="store_true", help="64 faces with the network of real cost, too (an hour on a CPU)")
    parser.add_argument("--only", choices=SECTIONS,
                        help="crop, paste and built-in swap; network engines, the research systems' among them; or clips (all)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="for networks (cpu, and cuda where there is one)")
    parser.add_argument("--repeats", type=int, help="timed runs of each (15, with --quick 3; of networks of real cost 2)")
    parser.add_argument("--threads", type=int, help="CPU threads for every contestant (as many as there are)")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print, as ``argv`` (the terminal's unless given) asks. Returns 0: a slow machine is not an error."""
    parser = argparse.ArgumentParser("python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    quick, full = arguments.quick, arguments.full
    repeats = max(1, arguments.repeats or (3 if quick else 15))
    frames = ["720p", "1080p"] if quick else list(FRAMES)
    sections = [arguments.only] if arguments.only else list(SECTIONS)
    counts = {"trivial": [1] if quick else [1, 8, 64], "full cost": [] if quick else [1, 8, 64] if full else [1, 8]}
    with threads(arguments.threads):
        report = measure(frames, [1] if quick else [1, 8], repeats, sections=sections, engine_counts=counts, device=arguments.device,
                         slow_repeats=arguments.repeats or 2, systems=not quick)
    print(json.dumps(report, indent=2) if arguments.json else table(report))
    return 0


def measure(frames: list[str], counts: list[int], repeats: int, *, sections: list[str], engine_counts: dict[str, list[int]],
            device: str = "auto", slow_repeats: int = 2, systems: bool = False) -> dict:
    """The whole report: the machine, one entry of ``results`` per frame size and number of faces, of ``engines`` also per network, of
    ``systems`` per research system, and notes.

    frames: names in ``FRAMES``; engines are measured from 1080p on where there is such a frame. counts: faces per frame.
    engine_counts: the same, by double of ``engines``; slow_repeats: runs of the double of real cost on the CPU, and of the systems.
    systems: measure those, too, where engines are, and clips with many and large frames instead of few and small ones.
    """
    theirs = find_spec("insightface") is not None
    faces, portrait, identity = people()
    report: dict = {"machine": machine(), "face_pixels": FACE, "crop_size": CROP, "repeats": repeats, "insightface": theirs}
    notes = [] if theirs else [HOW_TO_GET]
    if "paste" in sections:
        report["results"] = []
        for frame in frames:
            for count in counts:
                images, placed = build_frame(portrait, faces[0], FRAMES[frame], count)
                report["results"].append({"frame": frame, "width": images.shape[2], "height": images.shape[1], "faces": count,
                                          **paste.contest(images, placed, identity, repeats, theirs)})
                print(f"{frame}, {count} face(s) measured", file=sys.stderr)
    if "engines" in sections:
        sizes = {frame: FRAMES[frame] for frame in frames if frame != "720p"} or {frame: FRAMES[frame] for frame in frames}
        report["engines"], missing = engines.measure_engines(portrait, faces[0], sizes, engine_counts, device,
                                                             {"trivial": repeats, "full cost": slow_repeats})
        notes += missing
        if systems:
            report["systems"], missing = measure_systems(portrait, faces[0], identity, slow_repeats, device)
            notes += missing
    if "video" in sections:
        report["video"] = clips.measure_clips(portrait, faces[0], identity, not systems, slow_repeats)
    return {**report, "notes": notes}


def table(report: dict) -> str:
    """The report for a terminal."""
    about = report["machine"]
    first = f"Milliseconds, median of {report['repeats']}, {about['threads']} of {about['cores']} cores, torch {about['torch']}."
    lines = [first]
    if report.get("results"):
        lines += [f"Faces of {report['face_pixels']} pixels; theirs = insightface.", *_columns(_paste_rows(report["results"]))]
    if report.get("engines"):
        costs = {entry["double"]: f"{entry['double']}: {entry['parameters'] / 1e6:.1f} M parameters, {entry['gflop']:.1f} GFLOP"
                 for entry in report["engines"]}
        lines += ["Network engines, per face; + = beyond the network; copy = the frame's, part of our +; crops = what Face Detect took to "
                  "look the frame through and cut its crops, before; x = theirs over ours. "
                  f"Networks: {'; '.join(costs.values())}.",
                  *_columns(_engine_rows(report["engines"]))]
    if report.get("systems"):
        lines += ["Research systems, per face, from a frame of 1080p to the crop; GHOST's generator alone beside its export to ONNX.",
                  *_columns(_system_rows(report["systems"]))]
    if report.get("video"):
        lines += clips.table_of(report["video"])
    return "\n".join([*lines, *report["notes"]])


def _paste_rows(results: list[dict]) -> list[tuple[str, ...]]:
    rows = [("frame", "faces", "crop 512", "crop 128", "theirs", "paste", "theirs", "ratio", "copy", "swap", "peak MB paste/theirs/swap")]
    for entry in results:
        crop, pasted, swap = entry["crop"], entry["paste"], entry["swap"]
        peaks = (pasted["ours_peak_mb"], pasted.get("insightface_peak_mb"), swap["ours_peak_mb"])
        rows.append((entry["frame"], str(entry["faces"]), _cell(crop["ours_512_ms"]), _cell(crop["ours_128_ms"]),
                     _cell(crop.get("insightface_128_ms")), _cell(pasted["ours_ms"]), _cell(pasted.get("insightface_ms")),
                     _cell(pasted.get("ratio"), "{:.0f}x"), _cell(entry["copy"]["ours_ms"]), _cell(swap["ours_ms"]),
                     "/".join(_cell(peak, "{:.0f}") for peak in peaks)))
    return rows


def _engine_rows(engines: list[dict]) -> list[tuple[str, ...]]:
    contestants = {"ours": "FaceLoom", "ours_one_by_one": "one by one", "insightface": "insightface", "facefusion_like": "as FaceFusion"}
    head = ["network", "device", "frame", "faces", "network ms"]
    for name, title in contestants.items():
        head += [title, "+", *{"ours": ["copy", "crops"], "ours_one_by_one": []}.get(name, ["x", "+ x"])]
    rows = [(*head, "peak MB")]
    for entry in engines:
        row = [entry["double"], entry["device"], entry["frame"], str(entry["faces"]), _cell(entry["ours"]["network_ms_per_face"])]
        for name in contestants:
            figures = entry.get(name, {})
            row += [_cell(figures.get("ms_per_face")), _cell(figures.get("overhead_ms_per_face"))]
            if name == "ours":
                row += [_cell(entry["copy_ms_per_face"]), _cell(entry["crops_ms_per_face"])]
            elif name != "ours_one_by_one":
                row += [_cell(figures.get(key), "{:.1f}") for key in ("ratio", "overhead_ratio")]
        row.append("/".join(_cell(entry.get(name, {}).get("peak_mb"), "{:.0f}") for name in contestants))
        rows.append(tuple(row))
    return rows


def _system_rows(systems: list[dict]) -> list[tuple[str, ...]]:
    rows = [("system", "device", "pixels", "M parameters", "ms", "peak MB", "generator ms", "ONNX ms", "ONNX/ours")]
    for entry in systems:
        rows.append((entry["system"], entry["device"], str(entry["size"]), _cell(entry["parameters"] / 1e6, "{:.0f}"),
                     _cell(entry["ms"], "{:.0f}"), _cell(entry["peak_mb"], "{:.0f}"), _cell(entry.get("generator_ms"), "{:.0f}"),
                     _cell(entry.get("onnx_ms"), "{:.0f}"), _cell(entry.get("ratio"))))
    return rows


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]


def _cell(value: float | None, form: str = "{:.2f}") -> str:
    return "-" if value is None else form.format(value)

"""Runs the sections one after another, each in a process with a time limit, and writes one JSON file and one table.

A section that fails, crashes or hangs leaves what it had measured, and the others run. Nothing here imports torch: the card belongs to
the sections alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.card.table import table

ROOT = Path(__file__).parents[2]
# Seconds for all sections together; the limits of the sections add up to it.
LIMIT = 470


@dataclass(frozen=True)
class Section:
    """One question. target: ``module:function`` that yields its rows. seconds: its time limit. comfyui: whether it runs in ComfyUI's
    Python."""

    name: str
    question: str
    target: str
    seconds: int
    comfyui: bool = False


SECTIONS = (
    Section("machine", "What was it measured on?", "bench.card.sessions:machine", 20),
    Section("providers", "Which of onnxruntime's providers really load?", "bench.card.sessions:providers", 50),
    Section("binding", "Do inputs and outputs of ONNX networks stay on the card?", "bench.card.sessions:binding", 35),
    Section("precision", "How far is float16 from float32, and how much faster?", "bench.card.engines:precision", 100),
    Section("batches", "How many more faces a second in batches? (goal: 3 times)", "bench.card.engines:batches", 95),
    Section("overhead", "What does a whole frame cost beyond the network? (goal: 10 per cent)", "bench.card.engines:overhead", 50),
    Section("paste", "Are crops, masks and paste on the card those of the CPU? (goal: to 1/255)", "bench.card.pixels:paste_on_device", 35),
    Section("memory", "Is the memory given back?", "bench.card.memory:given_back", 60),
    Section("diffusion", "Does DiffusionInpaintSwap run in float16 and float32?", "bench.card.diffusion:inpaint", 25, comfyui=True),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``[--json FILE] [--out FOLDER] [--tiny] [--only SECTION] [--device DEVICE]``."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the JSON goes (card.json in the folder of --out)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path("output/card"),
                        help="where card.json, card.txt (the table) and card.log go (output/card)")
    parser.add_argument("--tiny", action="store_true", help="tiny networks and small frames, to try the script on a CPU")
    parser.add_argument("--only", action="append", choices=[section.name for section in SECTIONS], metavar="SECTION",
                        help="this section alone, may be given again: " + ", ".join(section.name for section in SECTIONS))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="cuda where there is one")


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints as ``argv`` (the terminal's unless given) asks. Returns 1 where a section failed, else 0."""
    parser = argparse.ArgumentParser("python -m bench.card", description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    chosen = [section for section in SECTIONS if not arguments.only or section.name in ("machine", *arguments.only)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = run_sections(chosen, arguments.out, arguments.json, tiny=arguments.tiny, device=arguments.device)
    print(table(report))
    return int(any(section["status"] == "failed" for section in report["sections"].values()))


def run_sections(sections: Sequence[Section], out: Path, json_file: Path | None = None, *, tiny: bool = False, device: str = "auto",
                 limit: float = LIMIT) -> dict:
    """Runs ``sections`` and returns the report, which is also written to ``out`` after every section. limit: seconds for all.

    A section has its own seconds and those that the sections before it left.
    """
    start, spare = time.monotonic(), 0.0
    report: dict = {"tiny": tiny, "requested_device": device, "seconds": 0.0, "sections": {}}
    log_file = out / "card.log"
    log_file.write_text("", encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="faceloom-card-") as work:
        for section in sections:
            allowed = min(section.seconds + spare, limit - (time.monotonic() - start))
            settings = {"tiny": tiny, "device": device, "folder": work}
            began = time.monotonic()
            try:
                entry = run_section(section, settings, allowed, Path(work), log_file)
            except Exception as error:  # whatever happens to one section, the others run
                entry = {"status": "failed", "reason": _line(error), "rows": []}
            seconds = time.monotonic() - began
            spare = max(0.0, allowed - seconds)
            report["sections"][section.name] = {"question": section.question, "seconds": round(seconds, 1), "limit": round(allowed, 1),
                                                **entry}
            report["seconds"] = round(time.monotonic() - start, 1)
            _write(report, out, json_file)
            print(f"{section.name}: {entry['status']} in {seconds:.0f} s{', ' * bool(entry['reason'])}{entry['reason']}", file=sys.stderr)
    return report


def run_section(section: Section, settings: dict, seconds: float, work: Path, log_file: Path) -> dict:
    """Runs one section in a process of its own, which is ended after ``seconds``. Returns its status, the reason and its rows."""
    if seconds < 1:
        return {"status": "skipped", "reason": "no time was left", "rows": []}
    result = work / f"{section.name}.jsonl"
    python = comfyui_python() if section.comfyui else sys.executable
    command = [python, "-m", "bench.card.worker", section.target, json.dumps(settings), str(result)]
    timed_out = False
    with open(log_file, "ab") as log:
        log.write(f"--- {section.name}\n".encode())
        log.flush()
        begins = log.tell()
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    lines = _read_lines(result)
    rows = [line["row"] for line in lines if "row" in line]
    end = next((line for line in lines if "status" in line), None)
    if timed_out and end is None:
        end = {"status": "failed", "reason": f"it was ended after {seconds:.0f} s, with {len(rows)} row(s) measured"}
    if end is None:
        with open(log_file, "rb") as log:
            log.seek(begins)
            said = log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        end = {"status": "failed", "reason": f"its process ended with code {process.returncode}: {said[-1]}"}
    faults = sum("error" in row for row in rows)
    if end["status"] == "done" and faults:
        end["reason"] = f"{faults} of {len(rows)} row(s) failed"
    return {"status": end["status"], "reason": end.get("reason", ""), "rows": rows}


def _read_lines(file: Path) -> list[dict]:
    """Reads the JSON lines that a section wrote, without a last one that is cut off."""
    whole = file.read_text(encoding="utf-8").rpartition("\n")[0] if file.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def comfyui_python() -> str:
    """Finds the Python that has ComfyUI's packages: ``COMFYUI_PYTHON``, the one in the checkout's own environment, or this one."""
    folder = Path(os.environ.get("COMFYUI_DIR") or ".")
    candidates = [os.environ.get("COMFYUI_PYTHON"), *(folder / name / "bin" / "python" for name in ("venv", ".venv", "../comfyvenv"))]
    return next((str(each) for each in candidates if each and Path(each).is_file()), sys.executable)


def _write(report: dict, out: Path, json_file: Path | None) -> None:
    """Writes the report so far, whole, so that a run that is cut off leaves what it has."""
    (json_file or out / "card.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (out / "card.txt").write_text(table(report) + "\n", encoding="utf-8")


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"

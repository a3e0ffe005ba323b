"""``swap TARGET --who FILE``: writes the picture of who is in a clip and swaps nothing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..models.clip.who import people
from ..models.detect.load import load_detector
from ..models.errors import FaceLoomError
from ..models.files.video import probe
from ..models.identity.load import load_recognizer
from ..models.options.detect import DetectSettings
from . import OK
from .clip_arguments import ClipOptions
from .people import check_sheet, described, expected_frames, find_people, write_sheet
from .progress import frames_bar
from .session import loading_of


def run_who(arguments: argparse.Namespace, detect: DetectSettings, options: ClipOptions) -> int:
    """Writes the picture of who is in the clip TARGET and swaps nothing. Returns the exit code."""
    target, sheet = Path(arguments.target), options.who
    assert sheet is not None
    if not target.is_file():
        raise FaceLoomError(f"With --who and nothing else, TARGET must be a clip, not {target}.")
    check_sheet(sheet, [target], arguments.overwrite)
    info = probe(target)
    loading = loading_of(arguments.device, arguments.provider)
    models = load_detector(arguments.detector, loading), load_recognizer(arguments.recognizer, loading)
    with frames_bar("finding", expected_frames(info, options), arguments.quiet) as bar:
        found = find_people(target, info, options, detect, models, lambda done, total: bar.update())
    write_sheet(sheet, found)
    everybody = people(found.faces, found.times)
    if arguments.json:
        print(json.dumps({"target": str(target), "who": str(sheet), "frames": found.faces.frames,
                          "people": [described(person) for person in everybody]}, indent=2))
    else:
        print("\n".join([*map(str, everybody), f"{len(everybody)} in the clip → {sheet}"]))
    return OK

"""What ``swap`` can be told: its arguments, their help, and the settings they make. Loads no torch before a swap begins."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.errors import FaceLoomError
from ..models.options.detect import ORDERS, DetectSettings
from ..models.options.paste import BLENDS, COLORS, PasteSettings
from ..models.options.pipeline import BUILT_IN, ModelNames
from ..models.options.providers import PROVIDERS
from ..models.options.ranges import RANGES, check_range
from ..models.options.regions import PRESETS, REGIONS, read_regions
from ..models.options.restore import RestoreSettings
from ..models.options.swap import SwapSettings
from ..models.runtime.options import Options, Value
from ..models.systems.options import options_by_engine, read_engine_options
from .clip_arguments import add_clip_arguments

if TYPE_CHECKING:
    from ..models.pipeline import Settings

NO_FACE = ("copy", "error", "skip")
DEVICES = ("auto", "cpu", "cuda")
SAMPLING = ("steps", "seed", "cfg")  # options of diffusion systems that have an argument of their own
MODEL = "a file, or a name of the catalogue"


def number(name: str, kind: type[int] | type[float] = float) -> Callable[[str], float]:
    """Returns an argument's type: a number in the range of ``name``, a key of ``RANGES``."""
    def read(text: str) -> float:
        try:
            value = kind(text)
            check_range(name, value)
        except (ValueError, FaceLoomError):
            least, most = RANGES[name]
            whole = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {whole} from {least:g} to {most:g}") from None
        return value

    return read


def crop_size(text: str) -> int | None:
    """Reads ``auto`` (None) or a number of pixels."""
    return None if text == "auto" else int(number("crop_size", int)(text))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``swap`` to its parser."""
    parser.usage = "%(prog)s SOURCE [SOURCE ...] TARGET OUT [options]"
    parser.epilog = options_help(options_by_engine())
    add = parser.add_argument
    add("files", nargs="*", metavar="SOURCE", help=argparse.SUPPRESS)
    _add_faces(parser.add_argument_group("which faces").add_argument)
    _add_engine(parser.add_argument_group("who swaps").add_argument)
    _add_mask(parser.add_argument_group("where").add_argument)
    _add_look(parser.add_argument_group("how it looks").add_argument)
    add_clip_arguments(parser.add_argument_group("clips").add_argument)
    _add_files(parser.add_argument_group("files and reports").add_argument)


def name_files(arguments: argparse.Namespace) -> None:
    """Says which of the files are ``source``, ``target`` and ``out``; with --who and one file, that is the target. FaceLoomError where one
    is missing."""
    files = arguments.files
    if arguments.who is not None and len(files) == 1:
        arguments.source, arguments.target, arguments.out = [], files[0], ""
        return
    if len(files) < 3:
        missing = " and ".join(("SOURCE", "TARGET", "OUT")[len(files):])
        raise FaceLoomError(f"{missing} {'is' if len(files) == 2 else 'are'} missing; name SOURCE, TARGET and OUT.")
    *arguments.source, arguments.target, arguments.out = files


def _add_faces(add: Callable) -> None:
    add("--faces", default="all",
        help="all, first, largest, or positions such as 0,2 in --order; in a clip these are people, as --who numbers them (default: all)")
    add("--order", default=DetectSettings.order, choices=tuple(ORDERS),
        help=f"how faces are counted, and the people of a clip by their largest view (default: {DetectSettings.order})")
    add("--threshold", type=number("threshold"), default=DetectSettings.threshold,
        help=f"how sure the detector must be, 0 to 1 (default: {DetectSettings.threshold})")
    add("--no-face", choices=NO_FACE, help="a photograph without a face: copy it, count it as failed, or leave it out (default: error for "
                                           "one photograph, copy for a folder)")
    add("--detector", default=BUILT_IN.detector, metavar="NAME", help=f"dlib (built in), {MODEL} (default: dlib)")
    add("--recognizer", default=BUILT_IN.recognizer, metavar="NAME",
        help=f"the network that the person is described with: dlib (built in), {MODEL}; the engine takes it too where it fits "
             "(default: dlib, and for the engine its own)")


def _add_engine(add: Callable) -> None:
    add("--engine", default=BUILT_IN.engine, metavar="NAME",
        help=f"mesh (built in), or a swap model or diffusion system: {MODEL} (default: mesh)")
    add("--option", action="append", default=[], metavar="NAME=VALUE",
        help='an option of the engine, such as "mask=face outline" or stretch=off; may be repeated')
    add("--strength", type=number("strength"), default=SwapSettings.strength,
        help="0 the target's own face, 1 the source's, up to 2 where the engine can exaggerate (default: 1)")
    add("--pixel-boost", type=number("pixel_boost", int), default=SwapSettings.pixel_boost, metavar="TIMES",
        help="runs a network at this multiple of its own resolution, 1 to 8 (default: 1)")
    add("--steps", type=int, help="steps of a diffusion system (default: as published, see below)")
    add("--seed", type=int, help="noise of a diffusion system (default: as published, see below)")
    add("--cfg", type=float, metavar="SCALE", help="classifier-free guidance of REFace and Face-Adapter (default: as published, see below)")
    add("--device", choices=DEVICES, default="auto", help="where torch networks run; auto takes CUDA where it is there (default: auto)")
    add("--provider", choices=("auto", *PROVIDERS), default="auto", metavar="NAME",
        help=f"where ONNX networks run: auto, {', '.join(PROVIDERS)} (default: auto)")


def _add_mask(add: Callable) -> None:
    words = ", ".join([*PRESETS, *(region for region in REGIONS if region not in PRESETS)])
    add("--regions", metavar="NAMES", help=f"where the new face may show, such as face,brows; any of {words} (default: everywhere)")
    add("--parser", default=BUILT_IN.parser, metavar="NAME",
        help=f"who finds the regions, and the masks of research systems: landmarks (built in), {MODEL} (default: landmarks)")
    add("--occluder", default=BUILT_IN.occluder, metavar="NAME",
        help=f"who finds what hides a face, such as a hand: {MODEL} (default: none)")
    add("--mask", type=Path, metavar="FILE",
        help="a picture that is laid over every photograph: white where new faces may show, black where the photograph stays")


def _add_look(add: Callable) -> None:
    add("--color", default=PasteSettings.color, choices=COLORS, help="colour match to the photograph around the face (default: none)")
    add("--blend", default=PasteSettings.blend, choices=BLENDS, help="how the face is joined to the photograph (default: feather)")
    add("--feather", type=number("feather"), default=PasteSettings.feather,
        help="softness of the mask's border, a fraction of the crop's edge from 0 to 0.5 (default: 0)")
    add("--keep-gray", action=argparse.BooleanOptionalAction, default=PasteSettings.keep_gray,
        help="where the photograph is grey or of one tone around a face, the face is too")
    add("--restore-model", default=BUILT_IN.restorer, metavar="NAME",
        help=f'"{BUILT_IN.restorer}" (built in: its sharpness and grain), or a restoration network: {MODEL}')
    add("--restore", type=number("amount"), default=RestoreSettings.amount, help="how much is restored, 0 to 1 (default: 1)")
    add("--fidelity", type=number("fidelity"), default=RestoreSettings.fidelity,
        help="of a restoration network that can choose: 0 makes the most detail, 1 stays closest to the swap (default: 0.5)")
    add("--framing", type=number("framing"), default=DetectSettings.framing,
        help="1 the face, larger takes in more of the head, 0.5 to 4 (default: 1)")
    add("--crop-size", type=crop_size, default=None, metavar="PIXELS",
        help="edge of the square each face is worked on in, 64 to 4096; auto follows the photograph (default: auto)")


def _add_files(add: Callable) -> None:
    add("--recursive", action="store_true", help="take what is in TARGET's subfolders too")
    add("--overwrite", action="store_true", help="replace files that are there already")
    add("--strip", action="store_true",
        help="write nothing of what photographs and clips say about themselves (EXIF, XMP, tags and the like)")
    add("--provenance", action="store_true", help="write into each picture or clip that it is a face swap, and how it was made")
    add("--json", action="store_true", help="print one JSON document instead of the summary")
    add("--quiet", action="store_true", help="no progress bar")


def options_help(methods: Mapping[str, type[Options]]) -> str:
    """Returns what --option takes: the options of each engine with their values, the default one in brackets, and what they do."""
    lines, explained = ["--option of the engines (docs/research-systems.md tells more):"], set()
    for method, kind in methods.items():
        lines.append(f"  {method:<14}{', '.join(option.name for option in fields(kind))}")
        for option in fields(kind):
            text = values_in_words(option)
            if option.metadata["help"] not in explained:  # several systems share the words about their masks
                text += f". {option.metadata['help']}"
                explained.add(option.metadata["help"])
            lines += textwrap.wrap(text, 110, initial_indent=f"    {option.name:<11} ", subsequent_indent=" " * 16)
    return "\n".join(lines)


def values_in_words(option: Field) -> str:
    """Returns the values an option takes, and its default in brackets."""
    default, about = option.default, option.metadata
    if isinstance(default, bool):
        return f"on, off [{'on' if default else 'off'}]"
    if not about["choices"] and about["least"] is None:
        return "any words"
    values = ", ".join(about["choices"]) or f"{about['least']:g} to {about['most']:g}"
    return f"{values} [{default if about['choices'] else f'{default:g}'}]"


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Returns the settings that the arguments make, checked. ``largest`` is the first of large-small."""
    from ..models.pipeline import Settings

    largest = arguments.faces.strip().lower() == "largest"
    detect = DetectSettings(threshold=arguments.threshold, order="large-small" if largest else arguments.order,
                            keep="first" if largest else arguments.faces, framing=arguments.framing)
    regions = () if arguments.regions is None else read_regions(arguments.regions, arguments.parser != BUILT_IN.parser)
    settings = Settings(detect, arguments.crop_size, SwapSettings(arguments.strength, arguments.pixel_boost), regions,
                        RestoreSettings(arguments.restore, arguments.fidelity),
                        PasteSettings(arguments.color, arguments.blend, arguments.feather, keep_gray=arguments.keep_gray))
    settings.check()
    return settings


def names_of(arguments: argparse.Namespace) -> ModelNames:
    """Returns the models that the arguments name."""
    return ModelNames(arguments.engine, arguments.detector, arguments.recognizer, arguments.parser, arguments.occluder,
                      arguments.restore_model)


def engine_options_of(arguments: argparse.Namespace) -> dict[str, Value]:
    """Returns the engine's options: those of --option, and --steps, --seed and --cfg."""
    given = {name: getattr(arguments, name) for name in SAMPLING if getattr(arguments, name) is not None}
    return read_engine_options(arguments.option) | given

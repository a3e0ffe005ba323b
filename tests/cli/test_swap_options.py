"""Every option of ``swap`` changes what comes out, or is refused; nothing is taken and then forgotten.

All models are doubles that say in colours what they were told, so a run takes a fraction of a second.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import pytest
import torch
from faceloom.cli import OK, SOME_FAILED, USER_ERROR, main, swap
from faceloom.cli.session import loading_of
from faceloom.models.detect import load as detectors
from faceloom.models.identity import load as recognizers
from faceloom.models.options.pipeline import BUILT_IN
from faceloom.models.parse import load as parsers
from faceloom.models.restore import load as restorers
from faceloom.models.swap import load as engines
from faceloom.models.systems import load as systems
from swap_doubles import run

pytestmark = pytest.mark.usefixtures("doubles")


@dataclass(frozen=True)
class Case:
    """How an option is tried: its words, words of both runs, the target, and what the run with it ends with."""

    words: str
    both: str = ""
    target: str = "photos/one.png"
    code: int = OK
    out_is_there: bool = False


CASES = {
    "--faces": Case("--faces first", target="photos/two.png"),
    "--order": Case("--order right-left", "--faces first", "photos/two.png"),
    "--threshold": Case("--threshold 0.8", target="photos/two.png"),
    "--no-face": Case("--no-face copy", target="photos/wall.png"),
    "--detector": Case("--detector moved"),
    "--recognizer": Case("--recognizer other"),
    "--engine": Case("--engine system", "--framing 1"),
    "--option": Case("--option tint=on"),
    "--strength": Case("--strength 0.5"),
    "--pixel-boost": Case("--pixel-boost 2"),
    "--steps": Case("--steps 7", "--engine system"),
    "--seed": Case("--seed 5", "--engine system"),
    "--cfg": Case("--cfg 2", "--engine system"),
    "--device": Case("--device cuda", code=USER_ERROR),
    "--provider": Case("--provider cpu", "--provider auto"),
    "--regions": Case("--regions face"),
    "--parser": Case("--parser network", "--regions skin"),
    "--occluder": Case("--occluder network"),
    "--mask": Case("--mask mask.png"),
    "--color": Case("--color mean-std"),
    "--blend": Case("--blend multi-band"),
    "--feather": Case("--feather 0.2"),
    "--keep-gray": Case("--no-keep-gray", target="grey.png"),
    "--restore-model": Case("--restore-model network", "--restore 1"),
    "--restore": Case("--restore 0.4", "--restore-model network --restore 1"),
    "--fidelity": Case("--fidelity 0.1", "--restore-model network --restore 1"),
    "--framing": Case("--framing 1.5"),
    "--crop-size": Case("--crop-size 256"),
    "--start": Case("--start 0:00.16", target="clip.mov"),
    "--end": Case("--end 0.2", target="clip.mov"),
    "--codec": Case("--codec prores", target="clip.mov"),
    "--quality": Case("--quality 50", target="clip.mov"),
    "--audio": Case("--audio none", target="clip.mov"),
    "--fill": Case("--fill 0", target="clip.mov"),
    "--smooth": Case("--smooth kalman", target="clip.mov"),
    "--fade": Case("--fade 0", target="clip.mov"),
    "--who": Case("--who who.png", target="clip.mov"),
    "--keep-damaged": Case("--keep-damaged", target="cut.avi"),
    "--recursive": Case("--recursive", "--no-face copy", "photos"),
    "--overwrite": Case("--overwrite", out_is_there=True),
    "--strip": Case("--strip"),
    "--provenance": Case("--provenance"),
    "--json": Case("--json"),
    "--quiet": Case("--quiet"),
}


def test_no_option_is_forgotten():
    parser = argparse.ArgumentParser(add_help=False)
    swap.add_arguments(parser)
    named = {action.option_strings[0] for action in parser._actions if action.option_strings}
    assert named == {*CASES, "--resume"}  # which test_swap_clips.py tries, for it takes an interrupted run


# Options of photographs that mean something else, or might have been forgotten, where the target is a clip.
CLIP_CASES = {
    "--faces": Case("--faces first"),
    "--order": Case("--order right-left", "--faces first"),
    "--threshold": Case("--threshold 0.8"),
    "--no-face": Case("--no-face copy", target="empty.mov"),
    "--detector": Case("--detector moved"),
    "--strength": Case("--strength 0.5"),
    "--mask": Case("--mask mask.png"),
    "--color": Case("--color mean-std"),
    "--framing": Case("--framing 1.5"),
    "--crop-size": Case("--crop-size 256"),
    "--strip": Case("--strip"),
    "--provenance": Case("--provenance"),
    "--overwrite": Case("--overwrite", out_is_there=True),
    "--json": Case("--json"),
    "--quiet": Case("--quiet"),
}


@pytest.mark.parametrize("option", CASES)
def test_every_option_changes_the_result_or_is_refused(option, photographs, tmp_path, capsys):
    check_option(option, CASES[option], photographs[0], tmp_path / "out", capsys)


@pytest.mark.parametrize("option", CLIP_CASES)
def test_every_option_counts_for_a_clip_too(option, photographs, tmp_path, capsys):
    case = CLIP_CASES[option]
    check_option(option, case if case.target == "empty.mov" else replace(case, target="clip.mov"), photographs[0], tmp_path / "out", capsys)


def check_option(option, case, folder, out, capsys):
    """Run without and with an option, and with it again."""
    if case.target.endswith((".mov", ".avi")):
        pytest.importorskip("av")
    words = [str(folder / "source.png"), str(folder / case.target), str(out), "--restore", "0"]
    words += [] if option in ("--crop-size", "--engine") or "system" in case.both else ["--crop-size", "128"]
    places = {"mask.png": folder / "mask.png", "who.png": out / "who.png"}
    added = [str(places.get(word, word)) for word in case.words.split()]
    before = run([*words, *case.both.split()], out, capsys, case.out_is_there)
    after = run([*words, *case.both.split(), *added], out, capsys, case.out_is_there)
    assert after[0] == case.code, after
    assert before != after
    if option not in ("--json", "--quiet", "--device"):
        assert before[1] != after[1]  # a picture
    assert before[0] == {"--overwrite": USER_ERROR, "--no-face": SOME_FAILED, "--keep-damaged": SOME_FAILED}.get(option, OK)
    if case.code == OK:
        assert after == run([*words, *case.both.split(), *added], out, capsys, case.out_is_there) or option == "--json"


@pytest.mark.parametrize("words", [
    "--threshold 1.01", "--threshold nan", "--strength -0.1", "--strength inf", "--strength 2.1", "--feather 0.51", "--feather -1",
    "--feather nan", "--fidelity 2", "--restore -1", "--restore nan", "--pixel-boost 0", "--pixel-boost 9", "--pixel-boost 1.5",
    "--framing 0.4", "--framing inf", "--crop-size 63", "--crop-size 5000", "--crop-size x", "--steps x", "--seed 1.5", "--cfg x",
    "--steps 0 --engine system", "--steps 1001 --engine system", "--seed -1 --engine system", "--cfg nan --engine system",
    "--cfg inf --engine system", "--steps 3", "--seed 3", "--cfg 3", "--option nothing=1", "--option tint=maybe", "--faces second",
    "--faces 0;1", "--faces first,0", "--regions hair", "--regions elbow", "--regions ,", "--engine no_such_engine", "--detector nobody",
    "--recognizer nobody", "--parser nobody", "--occluder nobody", "--restore-model nobody", "--mask nothing.png", "--provider gpu",
    "--device cuda", "--engine system --strength 0.5", "--engine system --pixel-boost 2", "--engine system --framing 2",
    "--engine system --crop-size 256", "--fidelity 0.2", "--start 1:60", "--start x", "--start -1", "--start 5 --end 4", "--end 0",
    "--codec mpeg", "--quality x", "--quality 60 --codec h264", "--quality 5 --codec prores", "--audio mute", "--fill -1", "--fill 1001",
    "--fill 1.5", "--smooth much", "--smooth running", "--fade x", "--fade 1001", "--start 1", "--end 1", "--codec h264", "--quality 20",
    "--audio none", "--fill 5", "--smooth off", "--fade 5", "--who who.png", "--no-resume", "--resume", "--keep-damaged",
])
def test_refused_once_before_any_picture_is_read(words, photographs, tmp_path, capsys, monkeypatch):
    """One sentence and exit code 2, though the folder has four pictures, the source is no picture and nothing may be read."""
    folder = photographs[0]
    (tmp_path / "source.png").write_bytes(b"not a picture")
    code, files, _, progress = run_and_say([str(tmp_path / "source.png"), str(folder / "photos"), str(tmp_path / "out"), *words.split()],
                                           tmp_path, capsys)
    assert code == USER_ERROR and not files and not progress


def run_and_say(words, tmp_path, capsys):
    try:
        code = main(["swap", *words])
    except SystemExit as stopped:
        code = stopped.code
    err = capsys.readouterr().err
    said = [line for line in err.splitlines() if not line.startswith("usage:")]
    assert len(said) == 1 and "Traceback" not in err and "source.png" not in err, err
    return code, list((tmp_path / "out").rglob("*.png")), err, "picture/s" in err


def test_sampling_options_are_named_where_an_engine_lacks_them(photographs, tmp_path, capsys):
    words = [str(photographs[0] / "source.png"), str(photographs[0] / "photos" / "one.png"), str(tmp_path / "o.png"), "--steps", "5"]
    assert main(["swap", *words]) == USER_ERROR
    assert capsys.readouterr().err == "faceloom: mesh has no option steps; it has tint.\n"


def test_built_in_models_are_those_of_the_tables(monkeypatch):
    monkeypatch.undo()
    from faceloom.models.runtime.method import built_in_method

    for methods, name in ((engines.ENGINES, BUILT_IN.engine), (detectors.DETECTORS, BUILT_IN.detector),
                          (recognizers.RECOGNIZERS, BUILT_IN.recognizer), (parsers.PARSERS, BUILT_IN.parser),
                          (restorers.RESTORERS, BUILT_IN.restorer)):
        assert built_in_method(methods, name).name == name


def test_options_that_are_listed_are_those_of_the_rows(monkeypatch):
    from faceloom.models.systems.diffface import PRESETS
    from faceloom.models.systems.options import OPTIONS, WEIGHTS

    monkeypatch.undo()
    assert {method.name: method.options for method in systems.ENGINES} == dict(OPTIONS) and tuple(PRESETS) == WEIGHTS


def test_the_words_about_clips_are_those_of_the_encoders_and_smoothers():
    pytest.importorskip("av")
    from faceloom.models.files.video.settings import _ENCODERS, quality_of
    from faceloom.models.options.clip import CODECS, SMOOTHING
    from faceloom.models.select.smooth import METHODS

    parser = argparse.ArgumentParser(add_help=False)
    swap.add_arguments(parser)
    (help_text,) = [action.help for action in parser._actions if "--quality" in action.option_strings]
    ranges = [quality_of(codec) for codec in ("h264", "hevc", "av1", "vp9")]
    assert ("auto", *_ENCODERS) == CODECS and tuple(METHODS) == SMOOTHING and ranges[0][:2] == ranges[1][:2]
    words = [f"h264 and hevc {ranges[0][0]} to {ranges[0][1]}", f"av1 {ranges[2][0]} to {ranges[2][1]}", f"vp9 {ranges[3][0]} to"]
    assert all(word in help_text for word in words) and ", ".join(str(each[2]) for each in ranges) in help_text


def test_devices(monkeypatch):
    assert (str(loading_of("auto", "auto").devices.device), loading_of("auto", "cpu").half) == ("cpu", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device, there, half in (("auto", "cuda", True), ("cuda", "cuda", True), ("cpu", "cpu", False)):
        loading = loading_of(device, "tensorrt")
        assert (str(loading.devices.device), loading.half, loading.providers) == (there, half, "tensorrt")

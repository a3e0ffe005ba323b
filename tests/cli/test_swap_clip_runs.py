"""Clips on the command line, with models that cost nothing: folders, interrupted runs, people and their numbers, animated pictures."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from faceloom.cli import INTERRUPTED, OK, SOME_FAILED, USER_ERROR, clips, main, session
from faceloom.models.files.picture import frames_in, read_frames
from PIL import Image
from swap_doubles import REDS

av = pytest.importorskip("av")
pytestmark = pytest.mark.usefixtures("doubles")
MORE = ("--restore", "0", "--crop-size", "128", "--quiet", "--json")


@pytest.fixture
def here(photographs) -> Path:
    return photographs[0]


def swap(capsys, *words) -> tuple[int, dict, str]:
    """Exit code, JSON document and stderr of a run."""
    code = main(["swap", *map(str, words), *MORE])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else {}, captured.err


def pictures_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def swapped_frames(before: np.ndarray, after: np.ndarray, columns: slice = slice(None)) -> list[bool]:
    """For each frame whether much of it changed."""
    differences = np.abs(before.astype(int) - after)[:, :, columns].max(-1)
    return [bool((difference > 30).mean() > 0.02) for difference in differences]


def kept_runs(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.parts"))


# Folders

def test_a_folder_of_photographs_and_clips_is_swapped_with_models_opened_once(here, tmp_path, capsys, monkeypatch):
    mixed, out, calls = tmp_path / "mixed", tmp_path / "out", []
    mixed.mkdir()
    for name in ("clip.mov", "empty.mov", "photos/one.png"):
        shutil.copy(here / name, mixed)
    shutil.copy(here / "clip.mov", mixed / "again.avi")  # FFmpeg looks at what a file is, not at its name
    (mixed / "broken.mp4").write_bytes(b"no clip")
    for call in (session.open_models, session.read_identity):
        monkeypatch.setattr(session, call.__name__, lambda *words, call=call: calls.append(call.__name__) or call(*words))
    code, report, err = swap(capsys, here / "source.png", mixed, out)
    assert code == SOME_FAILED and calls == ["open_models", "read_identity"]
    assert sorted(os.listdir(out)) == ["again.mp4", "clip.mov", "empty.mov", "one.png"]
    assert report["counts"] == {"swapped": 3, "copied": 1, "skipped": 0, "failed": 1} and len(report["pictures"]) == 1
    records = {os.path.basename(record["target"]): record for record in report["clips"]}
    assert "broken.mp4" in records["broken.mp4"]["error"] and "broken.mp4" in err
    assert (out / "empty.mov").read_bytes() == (here / "empty.mov").read_bytes()
    record = records["clip.mov"]
    assert {name: record[name] for name in ("frames", "frames_with_a_face", "frames_swapped", "faces", "filled")} == {
        "frames": 19, "frames_with_a_face": 16, "frames_swapped": 17, "faces": 34, "filled": 2}
    assert record["faded"] == 8  # both people in the first four frames that show them
    assert {"detect", "swap", "paste", "write"} <= set(record["milliseconds"])
    assert [(person["number"], person["frames"], person["first"], person["last"]) for person in record["people"]] == [
        (0, 16, 0.08, 0.72), (1, 16, 0.08, 0.72)]
    assert np.array_equal(pictures_of(out / "clip.mov"), pictures_of(out / "again.mp4"))


def test_what_a_clip_cannot_be_is_said_before_the_work(here, tmp_path, capsys):
    clip, one = here / "clip.mov", here / "photos" / "one.png"
    apng = animation(here, tmp_path / "a.png")
    for target, out, more, said in (
            (clip, "o.png", (), "is a clip, so OUT must be one"), (one, "o.mp4", (), "is a photograph, so OUT must be a picture"),
            (clip, "o.mov", ("--start", "9"), "nothing is left of it after --start 9 s"),
            (clip, "o.gif", ("--codec", "av1"), "choice of codec"), (clip, "o.gif", ("--provenance",), "no room for provenance"),
            (clip, "o.webm", ("--codec", "h264"), "cannot be written to a .webm"),
            (apng, "o.png", ("--who", apng), "is one of the other files"), (clip, "o.mov", ("--who", "w.xyz"), "written as"),
            (here / "photos", "o", ("--who", "w.png"), "name that clip as TARGET"),
            (one, "o.png", ("--fade", "3"), "only be used with clips"),
            (apng, "o.png", ("--start", "0"), "only be used with video files"), (clip, "o.mov", ("--faces", "x"), "is not a face number")):
        code, report, err = swap(capsys, here / "source.png", target, tmp_path / out, *more)
        assert code == USER_ERROR and not report and said in err and err.count("\n") == 1, err
    assert main(["swap", str(clip)]) == USER_ERROR and "TARGET and OUT are missing" in capsys.readouterr().err
    assert main(["swap", "a", str(clip)]) == USER_ERROR and "OUT is missing" in capsys.readouterr().err


# Interrupted runs

@pytest.fixture
def interrupt(monkeypatch):
    """Makes the next run end at a frame of its second pass, as Ctrl-C does; segments have eight frames."""
    monkeypatch.setattr(clips, "SEGMENT_FRAMES", 8)
    original = clips.swap_clip

    def after(frames: int) -> None:
        def ended(*words, watch, **more):
            monkeypatch.setattr(clips, "swap_clip", original)

            def stop(done, total, picture):
                if done == frames:
                    raise KeyboardInterrupt

            original(*words, watch=stop, **more)

        monkeypatch.setattr(clips, "swap_clip", ended)

    return after


def test_an_interrupted_run_goes_on_and_gives_the_same_clip(here, tmp_path, capsys, interrupt, monkeypatch):
    words, finding = (here / "source.png", here / "clip.mov"), []
    original = clips.find_people
    monkeypatch.setattr(clips, "find_people", lambda *words: finding.append(1) or original(*words))
    assert swap(capsys, *words, tmp_path / "whole" / "clip.mov")[0] == OK
    out = tmp_path / "out" / "clip.mov"
    interrupt(18)
    code, _, err = swap(capsys, *words, out)
    assert code == INTERRUPTED and "the same command goes on" in err and not out.exists() and len(kept_runs(out.parent)) == 1
    code, _, err = swap(capsys, *words, out)
    assert code == OK and re.search("clip.mov went on after (8|16) frames of an interrupted run.", err)
    assert len(finding) == 2  # not in the third run
    assert np.array_equal(pictures_of(out), pictures_of(tmp_path / "whole" / "clip.mov")) and os.listdir(out.parent) == ["clip.mov"]
    interrupt(18)
    assert swap(capsys, *words, out, "--overwrite")[0] == INTERRUPTED and out.exists()
    code, _, err = swap(capsys, *words, out, "--overwrite", "--no-resume")
    assert code == OK and "went on" not in err and len(finding) == 4 and os.listdir(out.parent) == ["clip.mov"]


@pytest.mark.parametrize("change", ["setting", "target", "source", "mask", "damaged"])
def test_a_run_of_other_settings_or_files_begins_anew(change, here, tmp_path, capsys, interrupt):
    for name in ("source.png", "clip.mov", "mask.png"):
        shutil.copy(here / name, tmp_path)
    words = [tmp_path / "source.png", tmp_path / "clip.mov", tmp_path / "out" / "clip.mov", "--mask", tmp_path / "mask.png"]
    interrupt(18)
    assert swap(capsys, *words)[0] == INTERRUPTED
    (run,) = kept_runs(tmp_path / "out")
    if change == "damaged":
        for name in (clips.FACES, "000000.json"):
            (run / name).write_bytes(b"{}")
    elif change == "setting":
        words += ["--strength", "0.5"]
    else:
        os.utime(tmp_path / {"target": "clip.mov"}.get(change, f"{change}.png"), (1, 1))
    code, _, err = swap(capsys, *words)
    assert code == OK and "went on" not in err and ("had left" in err) == (change != "damaged")
    assert os.listdir(tmp_path / "out") == ["clip.mov"] and len(pictures_of(tmp_path / "out" / "clip.mov")) == len(REDS)


def test_a_folder_of_a_long_name_fits_and_another_clips_run_stays(here, tmp_path, capsys, interrupt):
    long = "影" * 80
    for name in (f"{long}1.mov", f"{long}2.mov"):
        interrupt(18)
        assert swap(capsys, here / "source.png", here / "clip.mov", tmp_path / name)[0] == INTERRUPTED
    assert len(kept_runs(tmp_path)) == 2
    assert swap(capsys, here / "source.png", here / "clip.mov", tmp_path / f"{long}1.mov", "--strength", "0.5")[0] == OK
    assert len(kept_runs(tmp_path)) == 2  # it cannot be told whose they are
    assert swap(capsys, here / "source.png", here / "clip.mov", tmp_path / f"{long}2.mov")[0] == OK and len(kept_runs(tmp_path)) == 1


# People

def test_who_is_there_is_drawn_without_swapping_anything(here, tmp_path, capsys):
    sheet = tmp_path / "who.png"
    code, report, _ = swap(capsys, here / "clip.mov", "--who", sheet, "--start", "0.12")
    assert code == OK and [person["first"] for person in report["people"]] == [0.12, 0.12] and os.listdir(tmp_path) == ["who.png"]
    assert Image.open(sheet).size[1] == 2 * 140 and report["frames"] == 16
    code, _, err = swap(capsys, here / "clip.mov", "--who", sheet)
    assert code == USER_ERROR and "pass --overwrite" in err
    assert main(["swap", str(here / "clip.mov"), "--who", str(sheet), "--overwrite", "--quiet"]) == OK
    said = capsys.readouterr().out
    assert said.startswith("person 0: 0:00.1 to 0:00.7, 84% of the frames\nperson 1: ") and f"2 in the clip → {sheet}" in said
    assert swap(capsys, here / "photos", "--who", sheet)[0] == USER_ERROR


@pytest.mark.parametrize("words, sides", [
    ((), (True, True)), (("--faces", "0"), (True, False)), (("--faces", "1"), (False, True)), (("--faces", "-1"), (False, True)),
    (("--faces", "0", "--order", "right-left"), (False, True)), (("--faces", "first", "--order", "left-right"), (True, False)),
    (("--faces", "0,7"), (True, False))])
def test_people_are_chosen_by_their_numbers_on_the_sheet(words, sides, here, tmp_path, capsys):
    code, _, err = swap(capsys, here / "source.png", here / "clip.mov", tmp_path / "o.mov", *words)
    before, after = pictures_of(here / "clip.mov"), pictures_of(tmp_path / "o.mov")
    halves = slice(0, 160), slice(160, 320)
    assert code == OK and tuple(any(swapped_frames(before, after, half)) for half in halves) == sides
    assert ("has 2 people; there is none at 7 of --faces." in err) == ("0,7" in words)


@pytest.mark.parametrize("policy, code, status", [("error", SOME_FAILED, "failed"), ("skip", OK, "skipped"), ("copy", OK, "copied")])
def test_a_clip_without_the_face_that_is_wanted(policy, code, status, here, tmp_path, capsys):
    for target, more in ((here / "empty.mov", ()), (here / "clip.mov", ("--faces", "5"))):
        out = tmp_path / target.stem / "o.mov"
        result = swap(capsys, here / "source.png", target, out, "--no-face", policy, *more)
        (record,) = result[1]["clips"]
        assert result[0] == code and record["status"] == status and str(target) in result[2]
        assert os.listdir(out.parent) == (["o.mov"] if policy == "copy" else [])
        assert policy != "copy" or out.read_bytes() == target.read_bytes()


def test_frames_of_a_section_without_a_face_are_written_as_they_are(here, tmp_path, capsys):
    code, report, _ = swap(capsys, here / "source.png", here / "clip.mov", tmp_path / "o.mov", "--end", "0.08", "--no-face", "copy")
    assert code == OK and report["clips"][0]["status"] == "copied" and report["clips"][0]["frames"] == 2
    difference = np.abs(pictures_of(tmp_path / "o.mov").astype(int) - pictures_of(here / "clip.mov")[:2])
    assert difference.mean() < 4


# Animated pictures

def animation(here: Path, path: Path) -> Path:
    """The frames of the clip as an animated picture."""
    frames = [Image.fromarray(picture) for picture in pictures_of(here / "clip.mov")]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[100 + 10 * i for i in range(len(frames))], loop=3)
    return path


def test_faces_of_an_animated_picture_are_followed(here, tmp_path, capsys):
    target, out = animation(here, tmp_path / "a.png"), tmp_path / "out" / "a.png"
    before = pictures_of(here / "clip.mov")
    for more, filled in ((("--who", tmp_path / "who.png"), True), (("--fill", "0", "--fade", "0"), False)):
        code, report, _ = swap(capsys, here / "source.png", target, out, *more, "--overwrite")
        after = list(read_frames(out))
        shown = np.stack([(picture.image * 255).round().byte().numpy() for picture in after])
        assert code == OK and report["pictures"][0]["frames"] == len(REDS)
        assert swapped_frames(before, shown)[5:9] == [True, filled, True, True]
        assert swapped_frames(before, shown)[:2] == [False, False]
        assert [picture.milliseconds for picture in after] == [100 + 10 * i for i in range(len(REDS))] and frames_in(out).loop == 3
    assert Image.open(tmp_path / "who.png").size[1] == 2 * 140


def test_clips_become_animated_pictures_and_the_other_way_round(here, tmp_path, capsys):
    code, _, err = swap(capsys, here / "source.png", here / "clip.mov", tmp_path / "o.webp", "--quality", "90")
    assert code == OK and "has no sound" in err and frames_in(tmp_path / "o.webp").count == len(REDS)
    code, _, err = swap(capsys, here / "source.png", animation(here, tmp_path / "a.png"), tmp_path / "o.mp4", "--codec", "hevc")
    assert code == OK and not err
    with av.open(str(tmp_path / "o.mp4")) as file:
        assert [round(float(frame.time) * 1000) for frame in file.decode(video=0)][:4] == [0, 100, 210, 330]
        assert file.streams.video[0].codec_context.name == "hevc"

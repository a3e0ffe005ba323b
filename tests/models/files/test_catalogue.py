"""The catalogue's data, and finding files on disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from faceloom.models.crops.templates import TEMPLATES
from faceloom.models.errors import FaceLoomError
from faceloom.models.files import cache
from faceloom.models.files import catalogue as table
from faceloom.models.files import folders as disk
from faceloom.models.files.cache import file_hash, record_hash
from faceloom.models.files.catalogue import (
    NetContract,
    SwapContract,
    catalogue,
    guess_row,
    packs,
    parse_row,
    row_by_file_name,
    row_by_name,
    rows,
    rows_by_names,
)
from faceloom.models.files.extra_paths import extra_paths
from faceloom.models.files.find import FoundFile, check_name, find_by_name, find_companion, list_choices
from faceloom.models.files.folders import Folders, default_folders

ROWS = rows()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FACELOOM_MODELS", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")


@pytest.fixture
def models(tmp_path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def folders(models) -> Folders:
    return default_folders(models)


def put(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def known(monkeypatch, name: str, data: bytes, **changes) -> None:
    """Make the catalogue know ``data`` as the file of a row."""
    changed = replace(catalogue()[name], **{"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "also": (), **changes})
    swapped = {**catalogue(), name: changed}
    monkeypatch.setattr(table, "catalogue", lambda: swapped)
    for cached in (table._by_file_name, table._by_hash, table.packs):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def forget():
    yield
    for cached in (table._by_file_name, table._by_hash, table.packs):
        cached.cache_clear()


def test_names_and_files_are_unique():
    assert len({row.name for row in ROWS}) == len(ROWS) == len(catalogue())
    spread = [(row.folder if row.kind == "research" else "", name.lower()) for row in ROWS for name in row.names]
    assert len(set(spread)) == len(spread)
    hashes = [digest for row in ROWS for digest in row.hashes]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_well_formed(row):
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in row.hashes)
    assert row.crc32 is None or re.fullmatch("[0-9a-f]{8}", row.crc32)
    assert row.bytes is None or row.bytes > 100_000
    assert all(re.fullmatch(r"https://[^\s?#]+", url) for url in row.urls) and len(set(row.urls)) == len(row.urls)
    assert row.urls or row.page or row.packs, "no way to get it"
    assert row.page is None or row.page.startswith("https://")
    assert set(row.packs) <= set(packs())
    assert row.folder.split("/")[0] in disk.FOLDER_DEPTHS and ".." not in row.folder
    assert row.licence and row.vendor and row.commercial in (True, False, None)
    assert not re.search("non-commercial|-NC|S-Lab|ResearchRAIL", row.licence) or row.commercial is False
    assert not re.search("disputed|unknown|not stated", row.licence) or row.commercial is not True
    for name in row.names:
        check_name(name)


@pytest.mark.parametrize("row", rows("swap"), ids=lambda row: row.name)
def test_swap_rows_have_a_whole_contract(row):
    contract = row.contract
    assert isinstance(contract, SwapContract)
    assert contract.template in TEMPLATES and contract.color in ("rgb", "bgr") and contract.layout in ("nchw", "nhwc")
    assert contract.size in (128, 256, 512) or (contract.size is None and contract.source == "none")
    assert all(len(getattr(contract, name)) == 3 for name in ("mean", "std", "output_mean", "output_std", "source_mean", "source_std"))
    assert contract.source in ("embedding", "image", "none")
    if contract.source == "embedding":
        spaces = {other.contract.space for other in rows("recognizer")}
        assert contract.space in spaces, "no recognizer makes this"
        assert not (contract.emap and contract.converter)
        for helper, kind in ((contract.converter, "converter"), (contract.adapter, "recognizer")):
            assert helper is None or catalogue()[helper].kind == kind
    elif contract.source == "image":
        assert contract.source_template in TEMPLATES and contract.source_size in (112, 256)


def test_other_contracts_are_whole():
    for row in ROWS:
        if row.kind in ("recognizer", "converter", "parser", "occluder", "restorer", "detector"):
            assert isinstance(row.contract, NetContract), row.name
            assert row.contract.template is None or row.contract.template in TEMPLATES
    assert all(row.contract.space for row in (*rows("recognizer"), *rows("converter")))


def test_contracts_that_peers_got_wrong():
    contract = {name: row.contract for name, row in catalogue().items()}
    assert (contract["ghost_2_256"].unit, contract["ghost_2_256"].latent_unit) == (False, False)
    assert (contract["simswap_256"].unit, contract["simswap_256"].latent_unit) == (False, True)
    assert contract["simswap_256"].output_std == (1, 1, 1) != contract["simswap_256"].std
    assert (contract["inswapper_128"].emap, contract["inswapper_128"].latent_unit) == (True, True)
    assert contract["hyperswap_1a_256"].mask_outputs == (1,) and not contract["hyperswap_1a_256"].emap
    assert contract["alphaface_256"].unit is False
    assert contract["uniface_256"].source_std == (1, 1, 1) and contract["uniface_256"].std == (0.5, 0.5, 0.5)
    assert contract["gpen_bfr_256"].template == "arcface_128" and contract["gpen_bfr_512"].template == "ffhq_512"
    assert contract["2dfan4"].color == contract["peppa_wutz"].color == "bgr"
    assert contract["xseg_1"].layout == "nhwc" and contract["xseg_1"].color == "bgr"
    assert contract["det_10g"].std == pytest.approx((128 / 255,) * 3)


def test_facefusion_files_are_asked_for_under_their_own_tag():
    tags = {row.name: {part for url in row.urls for part in url.split("/") if part.startswith("models-")} for row in ROWS}
    assert tags["hyperswap_1b_256"] == {"models-3.3.0"} and tags["xseg_3"] == {"models-3.2.0"} and tags["xseg_2"] == {"models-3.1.0"}
    assert tags["bisenet_resnet_18"] == {"models-3.1.0"} and tags["bisenet_resnet_34"] == {"models-3.0.0"}
    assert tags["alphaface_256"] == {"models-3.9.0"} and tags["crossface_ghost"] == {"models-3.4.0"}


def test_a_slip_in_a_row_is_an_error():
    good = {"name": "a", "kind": "swap", "file": "a.onnx", "folder": "faceloom", "vendor": "v", "licence": "MIT", "commercial": True,
            "urls": [], "sha256": "unpinned", "contract": {"template": "ffhq_512", "size": 256, "mean": [0.5, 0.5, 0.5]}}
    row = parse_row(good)
    assert row.sha256 is None and row.contract.mean == (0.5, 0.5, 0.5)
    for slip in ({"sh256": "x"}, {"kind": "swapper"}):
        with pytest.raises(FaceLoomError, match="catalogue row a"):
            parse_row(good | slip)


def test_terms_say_it_once():
    assert catalogue()["inswapper_128"].terms == "non-commercial research only (InsightFace)"
    assert catalogue()["ghost_1_256"].terms == "Apache-2.0, commercial use allowed"
    assert catalogue()["codeformer"].terms == "S-Lab-1.0, no commercial use"
    assert catalogue()["cscs_256"].terms == "licence not stated, commercial use unclear"


def test_names_are_resolved():
    assert [row.name for row in rows_by_names(["buffalo_l", "det_10g", "GFPGANv1.4.pth"])] == [
        "det_10g", "2d106det", "1k3d68", "w600k_r50", "genderage", "GFPGANv1.4"]  # fmt: skip
    assert row_by_file_name("some/INSWAPPER_128.onnx").name == "inswapper_128"
    assert row_by_file_name("Tom.dfm").name == "deepfacelive" and row_by_file_name("inswapper.onnx") is None
    with pytest.raises(FaceLoomError, match=r"no model called inswaper_128.*Did you mean inswapper_128"):
        row_by_name("inswaper_128")
    with pytest.raises(FaceLoomError, match=r"shows all\.$"):
        row_by_name("zzzzz")


def test_a_suffix_alone_tells_no_converted_file():
    assert row_by_file_name("couple.keras").name == "deepfakes_faceswap"
    assert row_by_file_name("couple.safetensors") is None
    assert row_by_file_name("FaceDancer_config_x.safetensors").name == "facedancer_configs"


def test_rows_are_guessed_from_the_beginning_of_a_name():
    assert guess_row("Inswapper-128_sharp.onnx").name == "inswapper_128"
    assert guess_row("inswapper_128_fp16_v2.onnx").name == "inswapper_128_fp16"
    assert guess_row("hyperswap_1a_256.fp16.onnx", "swap").name == "hyperswap_1a_256"
    assert guess_row("inswapper_128x.onnx", "parser") is None and guess_row("my_face.onnx") is None


# Finding files


@pytest.mark.parametrize("place", [
    "insightface/inswapper_128.onnx", "inswapper_128.onnx", "faceloom/swap/inswapper_128.onnx", "reswapper/Inswapper_128.ONNX"])
def test_a_file_is_found_wherever_peers_keep_it(models, folders, place):
    path = put(models / place)
    assert find_by_name("inswapper_128", folders).path == path == find_by_name("inswapper_128.onnx", folders).path


@pytest.mark.parametrize("place", [
    "insightface/models/antelopev2", "insightface/models/antelopev2/antelopev2", "antelopev2", "antelopev2/antelopev2"])
def test_antelopev2_is_found_at_both_levels(models, folders, place):
    path = put(models / place / "scrfd_10g_bnkps.onnx")
    put(models / place / "glintr100.onnx")
    assert find_by_name("det_10g", folders).path == path and find_by_name("glintr100", folders).path.parent == path.parent


def test_insightface_s_own_folder_and_links(tmp_path, models, folders):
    path = put(tmp_path / "home/.insightface/models/buffalo_l/w600k_r50.onnx")
    assert find_by_name("w600k_r50", folders).path == path
    real = put(tmp_path / "elsewhere/real.bin")
    (models / "reswapper").mkdir(parents=True)
    (models / "reswapper/reswapper_256.onnx").symlink_to(real)
    assert find_by_name("reswapper_256", folders).path == models / "reswapper/reswapper_256.onnx"


def test_folders_that_comfyui_hands_in_come_first(tmp_path, models):
    extra = put(tmp_path / "big disk/faces/inswapper_128.onnx")
    put(models / "insightface/inswapper_128.onnx")
    folders = default_folders(models, {"insightface": [str(extra.parent)]})
    assert find_by_name("inswapper_128", folders).path == extra
    assert folders.target(catalogue()["inswapper_128"]) == extra
    assert folders.target(catalogue()["w600k_mbf"]) == extra.parent / "models/buffalo_s/w600k_mbf.onnx"
    assert folders.target(catalogue()["ghost_1_256"]) == models / "faceloom/swap/ghost_1_256.onnx"


def test_where_the_models_are(tmp_path, monkeypatch):
    monkeypatch.setenv("FACELOOM_MODELS", f"{tmp_path / 'a'}{disk.os.pathsep}{tmp_path / 'b'}")
    assert default_folders(tmp_path / "c").roots == (tmp_path / "c", tmp_path / "a", tmp_path / "b", tmp_path / "cache/models")
    monkeypatch.setattr(disk, "__file__", str(tmp_path / "ComfyUI/custom_nodes/FaceLoom/models/files/folders.py"))
    assert tmp_path / "ComfyUI/models" in default_folders().roots
    monkeypatch.delenv("FACELOOM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert disk.cache_folder() == tmp_path / "xdg/faceloom"


EXTRA = """
a111:
  base_path: {base}
  checkpoints: models
  insightface: |
    faces
    more/faces
big:
  is_default: true
  hyperswap: {base}/hyper
  nothing:
empty:
"""


def test_the_terminal_knows_comfyui_s_extra_folders(tmp_path, monkeypatch):
    pytest.importorskip("yaml")
    comfyui = tmp_path / "ComfyUI"
    monkeypatch.setattr(disk, "__file__", str(comfyui / "custom_nodes/faceloom/models/files/folders.py"))
    put(comfyui / "extra_model_paths.yaml", EXTRA.format(base=tmp_path / "disk").encode())
    path = put(tmp_path / "disk/more/faces/inswapper_128.onnx")
    folders = default_folders()
    assert folders.bases("insightface")[:3] == (tmp_path / "disk/faces", tmp_path / "disk/more/faces", comfyui / "models/insightface")
    assert folders.bases("hyperswap")[0] == tmp_path / "disk/hyper" and find_by_name("inswapper_128", folders).path == path
    assert default_folders(tmp_path / "mine").bases("hyperswap")[0] == tmp_path / "mine/hyperswap", "what is asked for comes first"
    for spoilt in (b"a: [", b"- 1", b"\xff", b""):
        put(comfyui / "extra_model_paths.yaml", spoilt)
        assert default_folders().bases("hyperswap")[0] == comfyui / "models/hyperswap"


def test_what_was_not_read_is_said(tmp_path, caplog, monkeypatch):
    pytest.importorskip("yaml")
    file = put(tmp_path / "extra_model_paths.yaml", EXTRA.format(base=tmp_path).encode())
    assert extra_paths(file)["insightface"] == (tmp_path / "faces", tmp_path / "more/faces") and not caplog.records
    assert extra_paths(tmp_path / "none.yaml") == {} and not caplog.records
    for spoilt in (b"a: [", b"\xff", b"[" * 5000):
        assert extra_paths(put(tmp_path / "spoilt.yaml", spoilt)) == {}
    assert [record.message.split("(")[1] for record in caplog.records] == ["ParserError).", "UnicodeDecodeError).", "RecursionError)."]
    caplog.clear()
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert extra_paths(file) == {}
    assert f"{file} was not read, because PyYAML is not installed; run pip install pyyaml" in caplog.text


def test_folders_that_other_packs_list_under_keys_of_their_own_are_searched(tmp_path):
    path = put(tmp_path / "elsewhere/face_yolov8m.pt")
    folders = Folders((tmp_path / "models",), {"ultralytics_bbox": (path.parent,)})
    assert [(file.path, file.key, file.name) for file in folders.files()] == [(path, "ultralytics", "bbox/face_yolov8m.pt")]


def test_facefusion_s_folder_is_searched_as_a_root(tmp_path, monkeypatch):
    path = put(tmp_path / "facefusion/.assets/models/hyperswap_1a_256.onnx")
    monkeypatch.setenv("FACELOOM_MODELS", str(path.parent))
    assert find_by_name("hyperswap_1a_256", default_folders()).path == path


def test_a_missing_file_says_everything(models, folders):
    with pytest.raises(FaceLoomError) as raised:
        find_by_name("hyperswap_1a_256.onnx", folders)
    text = str(raised.value)
    assert "hyperswap_1a_256.onnx (ResearchRAIL, no commercial use) is not on this machine" in text
    assert "`python -m faceloom models get hyperswap_1a_256`" in text and str(models / "hyperswap") in text
    assert "https://github.com/facefusion/facefusion-assets/releases/download/models-3.3.0/hyperswap_1a_256.onnx" in text
    with pytest.raises(FaceLoomError, match=r"Model.pt \(CC BY-NC 4.0.*get it from https://github.com/hxngiee/DiffFace and put it into"):
        find_by_name("diffface_unet", folders)
    with pytest.raises(FaceLoomError, match=r"models get det_2.5g`, or put the file into"):
        find_by_name("det_2.5g", folders)


@pytest.mark.parametrize("name", ["../secret.onnx", "a/../../b.onnx", "/etc/passwd", "C:\\x.onnx", "~/x.onnx", "a\0b", "", "a\\..\\b.onnx"])
def test_names_are_never_paths(folders, name):
    with pytest.raises(FaceLoomError, match="is not the name of a model file"):
        find_by_name(name, folders)


def test_a_file_of_another_name_is_recognized_by_its_hash(models, folders, monkeypatch):
    data = b"inswapper, renamed"
    known(monkeypatch, "inswapper_128", data)
    put(models / "insightface/other.onnx", b"inswapper, changed")
    put(models / "insightface/hyperswap_1a_256.onnx", data)
    put(models / "insightface/weights.pth", data)
    put(models / "insightface/longer.onnx", data + b"!")
    path = put(models / "insightface/best model.onnx", data)
    found = find_by_name("inswapper_128", folders)
    assert found.path == path and "recognized as inswapper_128" in found.note
    assert find_by_name("best model.onnx", folders).row.name == "inswapper_128"


def test_another_export_under_the_right_name_is_used_with_a_note(models, folders, monkeypatch):
    known(monkeypatch, "inswapper_128", b"the real one")
    path = put(models / "insightface/inswapper_128.onnx", b"re-exported")
    found = find_by_name("inswapper_128", folders)
    assert found.path == path and found.row.name == "inswapper_128" and "not the file the catalogue knows" in found.note
    path.write_bytes(b"the real one")
    assert find_by_name("inswapper_128", folders).note == ""
    path.write_bytes(b"the real two")
    assert "not the file" in find_by_name("inswapper_128", folders).note
    known(monkeypatch, "inswapper_128", b"the real one", also=(hashlib.sha256(b"the real two").hexdigest(),))
    assert find_by_name("inswapper_128", folders).note == ""


def test_an_unpinned_file_is_compared_with_its_first_download(models, folders):
    path = put(models / "reswapper/reswapper_128.onnx", b"first")
    assert find_by_name("reswapper_128", folders).note == ""
    record_hash(path, hashlib.sha256(b"first").hexdigest())
    assert find_by_name("reswapper_128", folders).note == ""
    path.write_bytes(b"other")
    assert "not the file" in find_by_name("reswapper_128", folders).note


def test_a_file_the_catalogue_does_not_know(models, folders):
    put(models / "faceloom/swap/InSwapper_128 mine.onnx")
    path = put(models / "faceloom/swap/experiment.onnx")
    found = find_by_name("swap/experiment.onnx", folders)
    assert (found.path, found.row) == (path, None) and "read from the file" in found.note
    assert find_by_name("InSwapper_128 mine.onnx", folders, "swap").row.name == "inswapper_128"
    with pytest.raises(FaceLoomError, match=r"no model called nowhere.onnx"):
        find_by_name("nowhere.onnx", folders)
    with pytest.raises(FaceLoomError, match=r"^\*\.dfm .* is not on this machine: get it from https://github\.com/iperov/DeepFaceLive"):
        find_by_name("deepfacelive", folders)
    with pytest.raises(FaceLoomError, match=r"^Tom\.dfm is not in any of the models folders"):
        find_by_name("Tom.dfm", folders)
    dfm = put(models / "faceloom/swap/Tom.dfm")
    assert find_by_name("Tom.dfm", folders) == FoundFile(dfm, catalogue()["deepfacelive"])


def test_common_names_of_research_files_count_only_in_their_folder(models, folders):
    put(models / "last.ckpt")
    with pytest.raises(FaceLoomError, match=r"last.ckpt"):
        find_by_name("reface", folders)
    path = put(models / "faceloom/reface/last.ckpt")
    assert find_by_name("reface", folders).path == path


def test_a_companion_lies_in_the_folder_then_in_one_inside_then_in_the_models_folders(models, folders):
    main = models / "faceloom" / "mine" / "Model.pt"
    names = ("diffface_arcface", "simswap_arcface_checkpoint")
    assert find_companion(main, *names, folders=folders, needed=False) is None
    with pytest.raises(FaceLoomError, match=rf"^Model\.pt needs Arcface\.tar \(.*\), which is not on this machine: .*{main.parent}\.$"):
        find_companion(main, *names, folders=folders)
    with pytest.raises(FaceLoomError, match=r"^Model\.pt needs the ArcFace \(Arcface\.tar, "):
        find_companion(main, *names, what="the ArcFace")
    for place in ("simswap/arcface_checkpoint.tar", "diffface/Arcface.tar", "mine/others/arcface_checkpoint.tar", "mine/others/Arcface.tar",
                  "mine/arcface_checkpoint.tar", "mine/Arcface.tar"):
        made = models / "faceloom" / place
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(b"x")
        assert find_companion(main, *names, folders=folders, inside=("others",)) == made
    assert find_companion(main.with_name("none") / "Model.pt", *names, needed=False) is None


def test_what_a_loader_lists(models, folders):
    put(models / "hyperswap/hyperswap_1c_256.onnx")
    put(models / "hyperswap/my own.onnx")
    put(models / "faceloom/swap/Tom.dfm")
    put(models / "insightface/models/buffalo_l/w600k_r50.onnx")
    put(models / "hyperswap/notes.txt")
    choices = list_choices("swap", folders)
    here = [choice.name for choice in choices if choice.path]
    assert here == ["hyperswap_1c_256.onnx", "swap/Tom.dfm", "my own.onnx"] and [choice.name for choice in choices][:3] == here
    assert "inswapper_128.onnx" in [choice.name for choice in choices if not choice.path]
    assert not any("*" in choice.name for choice in choices)
    assert len({choice.name for choice in choices}) == len(choices)
    assert {choice.name: choice.row for choice in choices}["my own.onnx"] is None
    assert [choice.name for choice in list_choices("recognizer", folders) if choice.path] == ["w600k_r50.onnx"]
    for choice in choices[:3]:
        assert find_by_name(choice.name, folders).path == choice.path


def test_links_in_circles_and_to_nowhere_are_passed_over(models, folders):
    path = put(models / "hyperswap/mine.ONNX")
    (models / "hyperswap/circle.onnx").symlink_to("circle.onnx")
    (models / "hyperswap/nowhere.onnx").symlink_to(models / "nothing")
    (models / "insightface").mkdir()
    (models / "insightface/self").symlink_to(".")
    assert [(choice.name, choice.path) for choice in list_choices("swap", folders) if choice.path] == [("mine.ONNX", path)]


def test_a_folder_is_read_again_only_when_it_has_changed(models, folders, monkeypatch):
    put(models / "hyperswap/one.onnx")
    before = time.time_ns() - 10 * disk.SETTLED_NS
    os.utime(models / "hyperswap", ns=(before, before))
    read, real = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: read.append(Path(folder)) or real(folder))
    for _ in range(3):
        assert [choice.name for choice in list_choices("swap", folders) if choice.path] == ["one.onnx"]
    assert read.count(models / "hyperswap") == 1
    for name in ("two.onnx", "three.onnx"):  # a folder that has only just changed may change again within the clock's tick
        put(models / "hyperswap" / name)
        assert name in [choice.name for choice in list_choices("swap", folders)]


def test_the_hash_of_a_file_is_remembered_until_it_changes(models, monkeypatch):
    path = put(models / "a.onnx", b"one")
    assert file_hash(path) == hashlib.sha256(b"one").hexdigest()
    monkeypatch.setattr(cache, "compute_hash", lambda *_: pytest.fail("read again"))
    assert file_hash(path) == hashlib.sha256(b"one").hexdigest()
    monkeypatch.undo()
    path.write_bytes(b"three")
    assert file_hash(path) == hashlib.sha256(b"three").hexdigest()


def test_a_spoilt_or_unwritable_memory_costs_nothing(tmp_path, models, monkeypatch):
    path = put(models / "a.onnx", b"one")
    put(tmp_path / "cache/hashes.json", b"{")
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path / "cache"))
    assert file_hash(path) == hashlib.sha256(b"one").hexdigest()
    put(tmp_path / "cache/hashes.json", b"[1]")
    assert file_hash(path) == hashlib.sha256(b"one").hexdigest()
    monkeypatch.setenv("FACELOOM_CACHE", str(put(tmp_path / "file") / "below"))
    assert file_hash(path) == hashlib.sha256(b"one").hexdigest()


def test_progress_of_hashing_can_interrupt(models):
    seen = []
    path = put(models / "a.onnx", bytes(9 << 20))
    cache.compute_hash(path, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (9 << 20, 9 << 20) and len(seen) == 3


def test_the_file_is_json_with_one_object_per_row():
    data = json.loads((Path(table.__file__).parent / "catalogue.json").read_text(encoding="utf-8"))
    assert set(data) == {"packs", "rows"} and all(pack["url"].startswith("https://") for pack in data["packs"].values())
    for name, pack in packs().items():
        assert pack.rows, name

"""``python -m faceloom identity``: people from photos to files, listed, shown, mixed and checked."""

from __future__ import annotations

import json

import numpy as np
import pytest
from faceloom.cli import main
from faceloom.models.identity.files import load_identity
from PIL import Image
from scenes import bytes_of


@pytest.fixture
def call(tmp_path, capsys):
    def call(*words):
        code = main(["identity", *map(str, words), "--models-dir", str(tmp_path / "models")])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def photos(tmp_path, collins, hopper):
    folder = tmp_path / "collins"
    folder.mkdir()
    picture = Image.fromarray(bytes_of(collins))
    picture.save(folder / "one.png")
    picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)).save(folder / "two.png")
    picture.point(lambda value: value * 0.8).save(folder / "three.png")
    Image.fromarray(bytes_of(hopper)).save(tmp_path / "hopper.png")
    return folder, tmp_path / "hopper.png"


def test_from_photos_to_a_mix(call, photos, tmp_path):
    folder, stranger = photos
    code, out, _ = call("make", "collins", folder, stranger)
    path = tmp_path / "models" / "faceloom" / "identities" / "collins.safetensors"
    assert code == 0 and str(path) in out and f"photo 4: {stranger}" in out and "left out" in out
    person = load_identity(path)
    assert person.name == "collins" and person.photos == 4 and len(person.crops) == 3, "the stranger's photo is left out"
    assert call("make", "collins", folder)[0] == 2 and call("make", "collins", folder, "--overwrite")[0] == 0
    assert call("make", "hopper", stranger)[0] == 0
    assert call("blend", "mix", "collins", "hopper", "--weights", "3,1")[0] == 0
    space, = load_identity(path).embeddings
    collins, hopper, mix = (load_identity(path.with_name(f"{name}.safetensors")).embeddings[space] for name in ("collins", "hopper", "mix"))
    assert np.linalg.norm(mix) == pytest.approx(1, abs=1e-5) and 1 > mix @ collins > mix @ hopper > collins @ hopper
    code, out, _ = call("list", "--json")
    assert code == 0 and [record["name"] for record in json.loads(out)] == ["collins", "hopper", "mix"]
    assert json.loads(out)[0]["photos"] == 3 and json.loads(out)[0]["embeddings"] == [space]
    code, out, _ = call("show", "collins", "--picture", tmp_path / "faces.png")
    crops = load_identity(path).crops
    assert code == 0 and Image.open(tmp_path / "faces.png").size == (len(crops) * crops.shape[2], crops.shape[1])
    assert "collins" in out and "3 photos" in out


def test_check_names_what_is_damaged_and_who_is_one_person(call, photos, tmp_path):
    folder, _ = photos
    assert call("make", "first", folder / "one.png")[0] == call("make", "second", folder / "two.png")[0] == 0
    (tmp_path / "models" / "faceloom" / "identities" / "bad.safetensors").write_bytes(b"no")
    code, out, err = call("check")
    assert code == 1 and "bad.safetensors is damaged" in err and "first and second look like one person" in out
    assert "2 whole, 1 damaged" in out


@pytest.mark.parametrize(("words", "said"), [
    (["make", "me"], "Say `make NAME PHOTO…`"), (["make", "../me", "a.png"], "cannot be a file name"), (["show"], "Name the identities"),
    (["show", "nobody"], "There is no identity nobody; there are: none yet"), (["blend", "a", "b"], "Say `blend NAME WHO WHO…`"),
    (["blend", "a", "b", "c", "--weights", "x"], "--weights must be numbers"), (["list", "me"], "list takes no names"),
])  # fmt: skip
def test_what_cannot_be_is_one_sentence(call, words, said):
    code, out, err = call(*words)
    assert code == 2 and not out and said in err and err.count("\n") == 1

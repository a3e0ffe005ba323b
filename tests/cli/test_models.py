"""``python -m faceloom models``."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from faceloom.cli import OK, SOME_FAILED, USER_ERROR, main
from faceloom.models.files import download
from faceloom.models.files.catalogue import catalogue

DATA = b"reswapper" * 1000
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FACELOOM_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "FACELOOM_MIRROR", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def mirror(monkeypatch):
    """A web folder with one file; every other address fails at once."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if not self.path.endswith("/reswapper_128.onnx"):
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            return self.wfile.write(DATA)

        def log_message(self, *_):
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
    real = download.list_addresses
    monkeypatch.setattr(download, "list_addresses", lambda urls, file, mirror=None: real((), file, mirror))
    web.asked, web.address = asked, f"http://127.0.0.1:{web.server_port}"
    yield web
    web.shutdown()
    web.server_close()


def test_the_list_shows_what_is_here_and_under_which_licence(tmp_path, capsys):
    (tmp_path / "models/hyperswap").mkdir(parents=True)
    (tmp_path / "models/hyperswap/hyperswap_1a_256.onnx").write_bytes(b"x")
    (tmp_path / "models/hyperswap/mine.onnx").write_bytes(b"x")
    assert main(["models", "list"]) == OK
    lines = capsys.readouterr().out.splitlines()
    here = [line for line in lines if line.startswith(" * ")]
    assert len(here) == 2 and "402.7 MB  ResearchRAIL, no commercial use" in here[0] and "mine.onnx" in here[1]
    assert any(line.split()[0] == "diffswap" and line.endswith("; by hand") for line in lines if line.strip())
    assert len([line for line in lines if line.startswith((" * ", "   "))]) == len(catalogue()) - 3 + 1 + 1, "no wildcards; mine, packs"
    assert main(["models", "list", "--kind", "converter"]) == OK
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "converter", "crossface_ghost", "crossface_hififace", "crossface_simswap"]  # fmt: skip


def test_get_fetches_shows_the_terms_and_says_where(tmp_path, mirror, capsys):
    assert main(["models", "get", "reswapper_128", "--mirror", mirror.address]) == OK
    path = tmp_path / "models/reswapper/reswapper_128.onnx"
    assert capsys.readouterr().out == f"reswapper_128: licence not stated, commercial use unclear\n{path}\n"
    assert path.read_bytes() == DATA
    assert main(["models", "get", "reswapper_128.onnx", "--mirror", mirror.address]) == OK
    assert mirror.asked == ["/reswapper_128.onnx"]
    assert main(["models", "verify"]) == OK
    assert f"reswapper_128                      ok  {path}" in capsys.readouterr().out
    assert main(["models", "where", "reswapper_128"]) == OK
    assert capsys.readouterr().out == f"{path}\n"


def test_get_does_not_fetch_what_another_program_has(tmp_path, mirror, capsys):
    path = tmp_path / "home/.insightface/reswapper_128.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert main(["models", "get", "reswapper_128", "--mirror", mirror.address]) == OK
    assert capsys.readouterr().out.endswith(f"\n{path}\n") and not mirror.asked
    assert main(["models", "get", "reswapper_128", "--mirror", mirror.address, "--force"]) == OK
    assert (tmp_path / "models/reswapper/reswapper_128.onnx").is_file()


def test_one_failure_does_not_stop_the_others(tmp_path, mirror, capsys):
    assert main(["models", "get", "reswapper_256", "buffalo_s", "reswapper_128", "--mirror", mirror.address]) == SOME_FAILED
    captured = capsys.readouterr()
    ways = f"name another web folder with --mirror, or put the file into {tmp_path / 'models'}"
    assert captured.err.splitlines() == [
        f"faceloom: reswapper_256.onnx could not be downloaded (127.0.0.1: 404 Not Found); {ways}/reswapper by hand.",
        f"faceloom: buffalo_s.zip could not be downloaded (127.0.0.1: 404 Not Found); {ways}/insightface/models by hand."]
    assert (tmp_path / "models/reswapper/reswapper_128.onnx").is_file()


def test_a_hash_can_be_accepted_for_one_model(tmp_path, mirror, capsys):
    known = hashlib.sha256(DATA).hexdigest()
    assert main(["models", "get", "reswapper_128", "--mirror", mirror.address, "--sha256", known]) == OK
    assert main(["models", "get", "buffalo_l", "--sha256", known]) == USER_ERROR
    assert "one model at a time" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "words"), [
    (["get"], "Name the models to get"), (["get", "reswapper_128", "inswaper_128"], "Did you mean inswapper_128"),
    (["get", "mine.onnx"], "There is no model called mine.onnx; `python -m faceloom models list` shows all.")])
def test_requests_that_make_no_sense_do_nothing(mirror, capsys, arguments, words):
    assert main(["models", *arguments]) == USER_ERROR
    assert words in capsys.readouterr().err and not mirror.asked


def test_verify_tells_the_good_the_unknown_and_the_wrong(tmp_path, capsys):
    models = tmp_path / "models"
    for place in ("insightface/inswapper_128.onnx", "reswapper/reswapper_256.onnx"):
        (models / place).parent.mkdir(parents=True, exist_ok=True)
        (models / place).write_bytes(DATA)
    digest = hashlib.sha256(DATA).hexdigest()
    assert main(["models", "verify"]) == SOME_FAILED
    out = capsys.readouterr().out
    assert f"inswapper_128                      not the catalogue's file (sha256 {digest})" in out
    assert f"reswapper_256                      nothing to compare with (sha256 {digest})" in out and len(out.splitlines()) == 2
    assert main(["models", "verify", "reswapper_256"]) == OK
    assert main(["models", "verify", "xseg_1", "nothing"]) == SOME_FAILED
    assert re.fullmatch("faceloom: xseg_1.onnx .* is not on this machine: .*\nfaceloom: There is no model called nothing; .*\n",
                        capsys.readouterr().err)
    (models / "faceloom/swap").mkdir(parents=True)
    for name, data in (("simswap_256.onnx", DATA), ("ghost_2_256.onnx", b"")):
        (models / "faceloom/swap" / name).write_bytes(data)
    for name, words in (("simswap_256", "(9000 bytes instead of 220368724)"), ("ghost_2_256", "empty")):
        assert main(["models", "verify", name]) == SOME_FAILED
        assert words in capsys.readouterr().out


def test_every_name_of_the_list_can_be_typed(tmp_path, capsys):
    models = tmp_path / "models"
    for place in ("faceloom/swap/Tom.dfm", "faceloom/swap/my own.onnx", "hyperswap/mine.onnx", "hyperswap/hyperswap_1a_256.onnx"):
        (models / place).parent.mkdir(parents=True, exist_ok=True)
        (models / place).write_bytes(DATA)
    assert main(["models", "list", "--kind", "swap"]) == OK
    names = [re.split(" {2,}", line[3:])[0] for line in capsys.readouterr().out.splitlines() if line.startswith(" * ")]
    assert sorted(names) == ["hyperswap_1a_256", "mine.onnx", "swap/Tom.dfm", "swap/my own.onnx"]
    places = []
    for name in names:
        assert main(["models", "where", name]) == OK
        places.append(Path(capsys.readouterr().out.split("  ")[0].strip()).relative_to(models).as_posix())
        assert main(["models", "verify", name]) == (SOME_FAILED if name == "hyperswap_1a_256" else OK)
        assert Path(places[-1]).name in capsys.readouterr().out
    assert sorted(places) == [
        "faceloom/swap/Tom.dfm", "faceloom/swap/my own.onnx", "hyperswap/hyperswap_1a_256.onnx", "hyperswap/mine.onnx"]
    assert main(["models", "where", "facedancer_configs"]) == SOME_FAILED
    assert "FaceDancer_config_*.h5 (CC BY-NC-SA 4.0, no commercial use) is not on this machine: get it from" in capsys.readouterr().err


def test_what_is_no_checkpoint_is_not_converted(tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    port = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3])
    graph = onnx.helper.make_model(onnx.helper.make_graph([], "nothing", [port], [port])).SerializeToString()
    files = {"net.pth": b"\x80\x02nonsense", "empty.pth": b"", "page.pth": b"<!doctype html>", "graph.pth": graph}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert main(["models", "convert", *(str(tmp_path / name) for name in files)]) == SOME_FAILED
    assert capsys.readouterr().err.splitlines() == [
        "faceloom: net.pth is not a whole PyTorch checkpoint; fetch it again.",
        "faceloom: empty.pth is not a PyTorch checkpoint but empty; fetch it again.",
        "faceloom: page.pth is not a PyTorch checkpoint but a web page that was saved in its place; fetch it again.",
        "faceloom: graph.pth is not a PyTorch checkpoint but an ONNX model, which is used as it is."]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(files)


def test_a_safetensors_file_can_be_halved_in_place(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    numbers = torch.linspace(0, 1, 1 << 20)
    save_file({"net.weight": numbers}, tmp_path / "net.safetensors")
    assert main(["models", "convert", str(tmp_path / "net.safetensors"), "--half"]) == SOME_FAILED
    assert "is already there; move it away, or use --force" in capsys.readouterr().err
    assert main(["models", "convert", str(tmp_path / "net.safetensors"), "--half", "--force"]) == OK
    assert torch.equal(load_file(tmp_path / "net.safetensors")["net.weight"], numbers.half())
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_the_folder_itself_can_be_run(tmp_path):
    """As it lies in ComfyUI's custom_nodes, where no Python knows it by name; what its messages say to type runs there too."""
    pack = tmp_path / "ComfyUI/custom_nodes/face loom"
    pack.parent.mkdir(parents=True)
    pack.symlink_to(ROOT, target_is_directory=True)
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "FACELOOM_MODELS")}

    def run(line: str | list[str]) -> subprocess.CompletedProcess:
        return subprocess.run(line, shell=isinstance(line, str), cwd=tmp_path, env=clean, capture_output=True, text=True)

    asked = run([sys.executable, "-I", str(pack), "models", "where", "hyperswap_1a_256"])
    assert asked.returncode == SOME_FAILED and f"into {tmp_path / 'ComfyUI/models/hyperswap'}." in asked.stderr
    said = re.search("run `(.*)`, or put", asked.stderr)[1]
    assert said.endswith("models get hyperswap_1a_256") and str(pack) in said
    pasted = run(said.replace("get", "where"))
    assert pasted.stderr == asked.stderr


def test_where_names_the_folders(tmp_path, capsys):
    (tmp_path / "models/sams").mkdir(parents=True)
    assert main(["models", "where"]) == OK
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"downloads go below {tmp_path / 'models'}" and f" * {tmp_path / 'models/sams'}" in out
    assert main(["models", "where", "--models-dir", str(tmp_path / "other")]) == OK
    assert f"downloads go below {tmp_path / 'other'}" in capsys.readouterr().out
    assert main(["models", "where", "antelopev2"]) == SOME_FAILED
    assert "det_10g.onnx (non-commercial research only (InsightFace)) is not on this machine" in capsys.readouterr().err

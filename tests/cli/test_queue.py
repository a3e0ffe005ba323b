"""``queue`` without a server: saved workflows in the API form, jobs and their manifest, and a server that goes away."""

from __future__ import annotations

import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePath
from types import SimpleNamespace

import pytest
from faceloom.cli import main
from faceloom.cli.queue_graph import read_workflow
from faceloom.cli.queue_jobs import make_jobs
from faceloom.models.errors import FaceLoomError

INFO = {
    "Load": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}, "display_name": "Load it"},
    "Mix": {"input": {"required": {"one": ["IMAGE"], "seed": ["INT", {"control_after_generate": True}], "how": ["COMBO", {}]},
                      "optional": {"two": ["IMAGE"], "sure": ["BOOLEAN", {}]}}},
    "Save": {"input": {"required": {"images": ["IMAGE"], "prefix": ["STRING", {}]}}},
}  # fmt: skip
PICTURE = {"name": "IMAGE", "type": "IMAGE"}


def node(number, kind, links=(), values=(), **more):
    inputs = [{"name": name, "type": "IMAGE", "link": link} for name, link in links]
    return {"id": number, "type": kind, "inputs": inputs, "outputs": [PICTURE], "widgets_values": list(values), **more}


def canvas(*nodes, links=(), **more):
    return {"nodes": list(nodes), "links": [[*link, "IMAGE"] for link in links], **more}


@pytest.fixture
def converted(tmp_path):
    def converted(workflow):
        path = tmp_path / "graph.json"
        path.write_text(json.dumps(workflow))
        return {number: each["inputs"] for number, each in read_workflow(path, INFO).items()}

    return converted


LOAD, SAVE = node(1, "Load", values=["a.png", "image"]), node(3, "Save", [("images", 2)], ["x"])
LINKS = [(1, 1, 0, 2, 0), (2, 2, 0, 3, 0)]


def test_values_are_named_and_what_only_the_canvas_shows_is_left_out(converted):
    graph = converted(canvas(LOAD, node(2, "Mix", [("one", 1)], [7, "randomize", "soft", True]), SAVE, node(9, "Note", values=["hello"]),
                             links=LINKS))
    assert graph == {"1": {"image": "a.png"}, "2": {"one": ["1", 0], "seed": 7, "how": "soft", "sure": True},
                     "3": {"images": ["2", 0], "prefix": "x"}}


@pytest.mark.parametrize(("mode", "images"), [(4, ["1", 0]), (2, None)])
def test_bypassed_and_muted_nodes(converted, mode, images):
    graph = converted(canvas(LOAD, node(2, "Mix", [("one", 1)], [7, "fixed", "soft"], mode=mode), SAVE, links=LINKS))
    assert list(graph) == ["1", "3"] and graph["3"].get("images") == images


def test_reroutes_and_primitives(converted):
    seed = node(5, "PrimitiveNode", values=[42, "fixed"])
    mix = node(2, "Mix", [("one", 4), ("seed", 5)], [7, "fixed", "soft"])
    graph = converted(canvas(LOAD, node(4, "Reroute", [("", 1)]), seed, mix, SAVE, links=[*LINKS[:1], LINKS[1], (4, 4, 0, 2, 0),
                                                                                          (5, 5, 0, 2, 1)]))
    assert graph["2"] == {"one": ["1", 0], "seed": 42, "how": "soft"}


def test_subgraphs_in_subgraphs(converted):
    def link(number, source, out, target, slot):
        return {"id": number, "origin_id": source, "origin_slot": out, "target_id": target, "target_slot": slot, "type": "IMAGE"}

    inner = {"id": "in", "inputs": [{"name": "p"}, {"name": "seed"}], "outputs": [PICTURE],
             "nodes": [node(2, "Mix", [("one", 1), ("seed", 3)], [7, "fixed", "soft"])],
             "links": [link(1, -10, 0, 2, 0), link(2, 2, 0, -20, 0), link(3, -10, 1, 2, 1)]}
    instance = node(8, "in", [("p", 1)], [99])
    instance["inputs"].append({"name": "seed", "type": "INT", "link": None, "widget": {"name": "seed"}})
    outer = {"id": "out", "inputs": [{"name": "q"}], "outputs": [PICTURE], "nodes": [instance],
             "links": [link(1, -10, 0, 8, 0), link(2, 8, 0, -20, 0)]}
    graph = converted(canvas(LOAD, node(6, "out", [("q", 1)]), SAVE, links=[(1, 1, 0, 6, 0), (2, 6, 0, 3, 0)],
                             definitions={"subgraphs": [inner, outer]}))
    assert graph["6:8:2"] == {"one": ["1", 0], "seed": 99, "how": "soft"} and graph["3"]["images"] == ["6:8:2", 0]


@pytest.mark.parametrize(("text", "said"), [("nothing", "no workflow that can be read"), ("[]", "no ComfyUI workflow"),
                                            ('{"nodes": [{"id": 1}]}', "is damaged"),
                                            ('{"1": {"class_type": "Gone", "inputs": {}}}', "The server has no node Gone")])
def test_files_that_are_no_workflow(tmp_path, text, said):
    path = tmp_path / "graph.json"
    path.write_text(text)
    with pytest.raises(FaceLoomError, match=said):
        read_workflow(path, INFO)


def graph():
    return {"1": {"class_type": "Load", "inputs": {"image": "a.png"}}, "2": {"class_type": "Load", "inputs": {"image": "a.png"}},
            "3": {"class_type": "Mix", "inputs": {"one": ["1", 0], "seed": 5, "how": "soft", "two": ["2", 0]}}}


@pytest.fixture
def folders(tmp_path):
    for folder, names in (("a", ("x", "y")), ("b", ("y", "z"))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.png").write_bytes(folder.encode())
    return [f"1={tmp_path / 'a'}", f"2={tmp_path / 'b'}"]


@pytest.mark.parametrize(("pair", "names"), [("order", ["x", "y"]), ("name", ["y"]), ("all", ["x+y", "x+z", "y+y", "y+z"])])
def test_lists_go_together(folders, pair, names):
    jobs = make_jobs(graph(), INFO, [], folders, None, pair, True)
    assert [job.name for job in jobs] == [PurePath(name) for name in names]
    assert [job.graph["3"]["inputs"]["seed"] for job in jobs] == list(range(5, 5 + len(names)))
    assert jobs[-1].files["2", "image"].name == f"{names[-1][-1] if pair != 'order' else 'z'}.png"


def test_lists_of_other_lengths_are_refused(folders, tmp_path):
    (tmp_path / "a" / "w.png").write_bytes(b"w")
    with pytest.raises(FaceLoomError, match="have 3, 2 files"):
        make_jobs(graph(), INFO, [], folders, None, "order", False)


def test_a_table_has_one_row_a_job(folders, tmp_path):
    (tmp_path / "jobs.csv").write_text("1,3.how,3.seed\na/x.png,hard,1\na/y.png,soft,2\n")
    jobs = make_jobs(graph(), INFO, ["3.how=loud"], [], tmp_path / "jobs.csv", "order", False)
    assert [(job.graph["3"]["inputs"]["how"], job.graph["3"]["inputs"]["seed"], job.name.name) for job in jobs] == [
        ("hard", 1, "x"), ("soft", 2, "y")]
    (tmp_path / "jobs.csv").write_text("1,3.how\na/x.png\n")
    with pytest.raises(FaceLoomError, match=r"Line 2 of .* has 1 values for 2 inputs"):
        make_jobs(graph(), INFO, [], [], tmp_path / "jobs.csv", "order", False)


class Double:
    """A ComfyUI that saves what was uploaded, and forgets its queue as a restarted one does: the first ``lost`` prompts are gone."""

    def __init__(self, lost: int = 0) -> None:
        self.state = SimpleNamespace(lost=lost, prompts={}, most=0, open=set(), deleted=[])
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def _handler(self):
        state, numbers = self.state, itertools.count()

        class Handler(BaseHTTPRequestHandler):
            def answer(self, value):
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                if self.path == "/object_info":
                    return self.answer(INFO)
                if self.path == "/queue":
                    return self.answer({"queue_running": [], "queue_pending": [[0, "stranger"]]})
                if self.path.startswith("/view"):
                    return self.answer(b"result")
                prompt = self.path.rsplit("/", 1)[-1]
                state.open.discard(prompt)
                if prompt not in state.prompts:
                    return self.answer({})
                saved = {"3": {"images": [{"filename": "r_001.png", "subfolder": "", "type": "output"}]}}
                return self.answer({prompt: {"outputs": saved, "status": {"status_str": "success", "messages": []}}})

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/upload/image":
                    return self.answer({"name": "u.png", "subfolder": "s"})
                if self.path == "/queue":
                    state.deleted += json.loads(body)["delete"]
                    return self.answer({})
                prompt = f"p{next(numbers)}"
                state.open.add(prompt)
                state.most = max(state.most, len(state.open))
                if state.lost:
                    state.lost -= 1
                else:
                    state.prompts[prompt] = json.loads(body)["prompt"]
                return self.answer({"prompt_id": prompt})

            def log_message(self, *_):
                pass

        return Handler


@pytest.fixture
def batch(tmp_path, folders, capsys):
    (tmp_path / "graph.json").write_text(json.dumps(graph()))

    def run(double, *words):
        code = main(["queue", str(tmp_path / "graph.json"), "--each", folders[0], "--server", double.url, "--out", str(tmp_path / "out"),
                     "--json", "--quiet", *words])
        printed = capsys.readouterr().out
        return code, json.loads(printed) if printed else None

    return run


def test_prompts_that_a_restarted_server_lost_are_queued_again(batch, tmp_path):
    double = Double(lost=2)
    code, told = batch(double)
    assert code == 0 and told["counts"]["done"] == 2 and len(double.state.prompts) == 2
    assert (tmp_path / "out" / "x.png").read_bytes() == b"result" and double.state.most <= 4
    assert all(each["1"]["inputs"]["image"] == "s/u.png" for each in double.state.prompts.values())
    code, told = batch(double)
    assert code == 0 and told["counts"] == {"done": 0, "there already": 2, "failed": 0} and len(double.state.prompts) == 2
    (tmp_path / "a" / "x.png").write_bytes(b"changed")
    assert batch(double)[1]["counts"] == {"done": 1, "there already": 1, "failed": 0}
    assert batch(double, "--set=3.seed=6")[1]["counts"]["done"] == 2


def test_no_more_than_so_many_wait(batch):
    double = Double()
    assert batch(double, "--ahead", "1")[0] == 0 and double.state.most == 1


def test_a_prompt_that_is_lost_again_and_again_fails_and_the_others_go_on(batch):
    code, told = batch(Double(lost=5), "--ahead", "1")
    assert code == 1 and told["counts"] == {"done": 1, "there already": 0, "failed": 1}
    assert [job.get("error") for job in told["jobs"]] == ["The server lost it 3 times.", None]


def test_ctrl_c_takes_back_its_own_prompts_only(batch, monkeypatch):
    from faceloom.cli import queue

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(queue.Server, "waiting", interrupt)
    double = Double()
    code, told = batch(double)
    assert code == 130 and told["interrupted"] and sorted(double.state.deleted) == ["p0", "p1"]


def test_no_server(tmp_path, capsys):
    assert main(["queue", "graph.json", "--server", "http://127.0.0.1:1", "--out", str(tmp_path)]) == 2
    assert "No ComfyUI answers at http://127.0.0.1:1" in capsys.readouterr().err

"""Checkpoints that are whole Python objects: their weights come out, and nothing in them runs."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile

import pytest
import torch
from faceloom.cli import main
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.checkpoints import load_parts, load_weights
from faceloom.models.files.unpickle import read_objects
from faceloom.models.interop.convert import convert
from faceloom.models.networks.arcface_se import ArcFaceSE
from torch import nn

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
WATCHED = ("os.", "exec", "compile", "import", "subprocess", "socket", "shutil", "ctypes", "builtins", "object.__setattr__", "code.")
events: list[str] | None = None


def listen(event: str, arguments: tuple) -> None:
    if events is not None and event.startswith(WATCHED):
        events.append(f"{event} {arguments}")


sys.addaudithook(listen)


class Odd(nn.Module):
    """What torch modules can hold: buffers that are not kept, a tensor under two names, halves, an empty one, strides, other objects."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.second = nn.Linear(4, 2).half()
        self.tied = self.first[0]
        self.turned = nn.Parameter(torch.rand(5, 3).T)
        self.register_buffer("scratch", torch.rand(2), persistent=False)
        self.register_buffer("nothing", torch.empty(0, 7))
        self.register_parameter("absent", None)
        self.options = types.SimpleNamespace(shape=torch.Size([1, 2]), device=torch.device("cpu"), kind=torch.float16, names={"a", "b"})


@pytest.fixture()
def published(monkeypatch):
    """Saves modules as their authors did: under classes that are nowhere to be found when the file is read."""
    def save(thing, path, zipped, *classes):
        theirs = types.ModuleType("theirs")
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "theirs", theirs)
            for kind in classes:
                setattr(theirs, kind.__name__, kind)
                patched.setattr(kind, "__module__", "theirs")
            torch.save(thing, path, _use_new_zipfile_serialization=zipped)
        return path

    return save


@FORMATS
def test_every_tensor_of_a_module_comes_out(published, tmp_path, zipped):
    net = Odd()
    net.first[1].running_mean += torch.rand(4)
    path = published(net, tmp_path / "people.pth", zipped, Odd)
    found, wanted = read_objects(path), net.state_dict()
    assert list(found) == list(wanted) and "scratch" not in found
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape and torch.equal(found[name], tensor)
    assert found["tied.weight"].data_ptr() == found["first.0.weight"].data_ptr()


@FORMATS
@pytest.mark.parametrize("how", ["model", "bare"])
def test_arcface_as_diffface_and_simswap_saved_it(published, tmp_path, capsys, zipped, how):
    net = ArcFaceSE((1, 1, 1, 1)).requires_grad_(False)
    thing = {"epoch": 3, "model": nn.DataParallel(net), "optimizer": {"state": {0: torch.ones(1)}}} if how == "model" else net
    path = published(thing, tmp_path / "Arcface.tar", zipped, ArcFaceSE, type(net.layer1[0]), type(net.layer1[0].se))
    with pytest.raises(FaceLoomError, match=r"holds Python objects.*refused.*models convert .*Arcface\.tar"):
        load_weights(path)
    assert main(["models", "convert", str(path)]) == 0
    assert capsys.readouterr().out.strip() == f"{path} -> {tmp_path / 'Arcface.safetensors'}"
    found, wanted = load_weights(tmp_path / "Arcface.safetensors"), net.state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert torch.equal(load_weights(convert(path, force=True, half=True))["fc.bias"], net.fc.bias.half())


@FORMATS
def test_several_modules_stay_apart(tmp_path, zipped):
    one, two = nn.Linear(2, 3), nn.DataParallel(nn.Linear(3, 1))
    torch.save({"g": one, "d": two}, tmp_path / "nets.pt", _use_new_zipfile_serialization=zipped)
    parts = load_parts(convert(tmp_path / "nets.pt"))
    assert torch.equal(parts["g"]["weight"], one.weight) and torch.equal(parts["d"]["bias"], two.module.bias)
    torch.save({"state_dict": one.state_dict(), "arguments": types.SimpleNamespace(a=1)}, tmp_path / "plain.pt")
    assert torch.equal(load_weights(convert(tmp_path / "plain.pt"))["weight"], one.weight)


def call(name: bytes, argument: bytes = b"touch pwned") -> bytes:
    """A pickle, without its end, that calls ``module.function`` with one text."""
    module, function = name.rsplit(b".", 1)
    return b"c" + module + b"\n" + function + b"\n(S'" + argument + b"'\ntR"


def stacked(module: bytes, name: bytes) -> bytes:
    """Pickle 4's way to name something, in which a dotted name is a chain of attributes."""
    return b"\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name + b"\x93"


HOSTILE = {
    "os.system": call(b"os.system"),
    "posix.system": call(b"posix.system"),
    "eval": call(b"builtins.eval", b"__import__(chr(111)+chr(115)).system(chr(97))"),
    "exec": call(b"__builtin__.exec"),
    "import": call(b"builtins.__import__"),
    "open": call(b"builtins.open"),
    "pickle in pickle": call(b"pickle.loads"),
    "instance": b"(S'touch pwned'\nios\nsystem\n",
    "object": b"(cos\nsystem\nS'touch pwned'\no",
    "chain of attributes": b"\x80\x04" + stacked(b"torch", b"os.system") + b"(S'touch pwned'\ntR",
    "getattr": b"cbuiltins\ngetattr\n(cos\n__dict__\nS'system'\ntR(S'touch pwned'\ntR",
    "call of a made object": b"cos\nsystem\n)\x81(S'touch pwned'\ntR",
    "two steps": call(b"functools.partial") + b"(S'touch pwned'\ntR" + call(b"subprocess.Popen"),
    "through torch": b"ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\nI0\n(t(tI0\nNtR",
    "a kept global": b"ctorch._utils\n_rebuild_parameter\n(cos\nsystem\nI0\nNtR(S'touch pwned'\ntR",
    "state of a function": b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'_make'\ncos\nsystem\nstb",
    "state of a class": b"cos\nsystem\n(N}S'__new__'\ncos\nsystem\nstb",
    "state of a container": b"ccollections\nOrderedDict\n(N}S'__init__'\ncos\nsystem\nstb",
    "made without a call": b"ccopyreg\n_reconstructor\n(ccollections\nOrderedDict\ncos\nsystem\nNtR",
    "extension": b"\x82\x01",
    "numbers by another name": b"((S'storage'\ncos\nsystem\nS'0'\nS'cpu'\nI1\ntQ",
    "numbers from another file": b"((S'storage'\nctorch\nFloatStorage\nS'../../secret'\nS'cpu'\nI1\ntQ",
    "without end": b"ctorch.nn\nModule\n)\x81q\x00}(S'_parameters'\n}S'_modules'\n}S'a'\nh\x00ssub",
    "cut": b"ctorch.nn\nModule\n)\x81}(S'_para",
    "nested": b"(" * 100_000 + b"t" * 100_000,
}


def packed(content: bytes, zipped: bool) -> bytes:
    stream = io.BytesIO()
    if not zipped:
        for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(each, stream, protocol=2)
        stream.write(content)
        pickle.dump([], stream, protocol=2)
        return stream.getvalue()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


@FORMATS
@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_files_run_nothing(tmp_path, monkeypatch, zipped, attack):
    """Alone, and before weights that are as they should be: one sentence or the weights, and no call, import or file in between."""
    global events
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "bad.safetensors"
    for end in (b".", b"0N."):
        path = tmp_path / "bad.tar"
        path.write_bytes(packed(HOSTILE[attack] + end, zipped))
        convert_quietly(path)
        events = []
        try:
            with pytest.raises(FaceLoomError) as caught:
                convert(path)
        finally:
            seen, events = events, None
        assert not [event for event in seen if not event.startswith("os.listdir")], seen
        sentence = str(caught.value)
        assert sentence.startswith("bad.tar ") and "\n" not in sentence and sentence.endswith("."), sentence
        assert sorted(each.name for each in tmp_path.iterdir()) == ["bad.tar"] and not target.exists()


def convert_quietly(path) -> None:
    """Once unobserved, so that what our own code imports is there."""
    with pytest.raises(FaceLoomError):
        convert(path)


@FORMATS
@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "posix.system", "subprocess.Popen"])
def test_a_module_that_hides_a_call_is_refused_by_its_name(tmp_path, zipped, name):
    class Payload:
        def __reduce__(self):
            module, function = name.split(".")
            return getattr(__import__(module), function), ("touch pwned",)

    torch.save({"model": nn.Linear(2, 2), "extra": Payload()}, tmp_path / "a.tar", _use_new_zipfile_serialization=zipped)
    with pytest.raises(FaceLoomError, match=r"asks for \w+\.\w+ to be run, which weights never need, so it is refused"):
        convert(tmp_path / "a.tar")
    assert not list(tmp_path.glob("pwned")) and not list(tmp_path.glob("*.safetensors"))


@FORMATS
def test_numbers_that_are_not_there(tmp_path, zipped):
    net = nn.Linear(8, 8)
    torch.save(net, tmp_path / "net.tar", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "net.tar").read_bytes()
    for cut in (len(whole) // 2, len(whole) - 5, 200, 3):
        (tmp_path / "net.tar").write_bytes(whole[:cut])
        with pytest.raises(FaceLoomError, match=r"net\.tar is not a whole PyTorch checkpoint"):
            read_objects(tmp_path / "net.tar")
    with zipfile.ZipFile(tmp_path / "net.tar", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"N.")
    with pytest.raises(FaceLoomError, match="packed archive"):
        read_objects(tmp_path / "net.tar")
    (tmp_path / "net.tar").write_bytes(pickle.dumps({"a": 1}) + pickle.dumps(2))
    with pytest.raises(FaceLoomError, match="Python pickle, not a PyTorch checkpoint"):
        read_objects(tmp_path / "net.tar")


def test_what_is_in_two_places_is_read_once(tmp_path):
    """Else forty dicts, each in the next twice, take for ever."""
    inner = {"weight": torch.ones(2)}
    for _ in range(12):
        inner = {"a": inner, "b": inner}
    torch.save({"net": nn.Linear(1, 1), "beside": torch.ones(1), "more": inner}, tmp_path / "net.pt")
    plain = read_objects(tmp_path / "net.pt")["more"]
    for _ in range(12):
        assert plain["a"] is plain["b"]
        plain = plain["a"]
    assert torch.equal(plain["weight"], torch.ones(2))


def test_a_tensor_may_not_reach_beyond_its_numbers(tmp_path):
    class Long:
        def __init__(self, size, stride):
            self.arguments = size, stride

        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (torch.ones(4).storage(), 0, *self.arguments, False, {})

    for size, stride, said in (((5,), (1,), "not a whole"), ((2, 2), (3, 3), "not a whole"), ((1 << 40,), (0,), "claims more weights"),
                               ((2,), (-1,), "not a whole")):
        net = nn.Linear(1, 1)
        net._parameters["weight"] = Long(size, stride)
        torch.save(net, tmp_path / "net.pt")
        with pytest.raises(FaceLoomError, match=said):
            read_objects(tmp_path / "net.pt")

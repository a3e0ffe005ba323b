"""The sections about the machine and onnxruntime's sessions: which providers load, and whether tensors stay on the card."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.card.tools import Setup, attempt, count_transfers, need, time_on_card, time_task
from bench.measure import machine as describe_machine

PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "diffusers", "insightface")
# Tried in this order; others only where the installed build lists them.
PROVIDERS = ("cpu", "cuda", "tensorrt")
# Copies of up to so many bytes are numbers, not pictures.
SMALL_BYTES = 64 << 10


def machine(setup: Setup) -> Iterator[dict]:
    """Yields one row: the processor, the card, the versions."""
    row = {"device": setup.device, "system": platform.system(), **describe_machine()}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        row |= {"card": card.name, "card_gib": round(card.total_memory / 2**30, 1), "capability": f"{card.major}.{card.minor}",
                "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "tf32_convolutions": torch.backends.cudnn.allow_tf32,
                "tf32_products": torch.backends.cuda.matmul.allow_tf32}
    for package in PACKAGES:
        try:
            row[package] = version(package)
        except PackageNotFoundError:
            row[package] = None
    yield row


def providers(setup: Setup) -> Iterator[dict]:
    """Yields a row per provider: whether it is listed, whether a session that was opened for it says that it runs on it and runs, else
    why not; and how many nodes of the network each provider ran."""
    need("onnx", "onnxruntime")
    import onnxruntime
    from faceloom.models.runtime.onnx import open_session
    from faceloom.models.runtime.providers import PROVIDERS as FULL_NAMES

    from bench.card.scene import onnx_file

    listed = onnxruntime.get_available_providers()
    others = [short for short, full in FULL_NAMES.items() if full in listed and short not in PROVIDERS]
    for name in ("trivial", "full cost"):
        path = onnx_file(setup, name)
        for provider in (*PROVIDERS, *others) if name == "trivial" else ("cuda", "cpu"):
            if name != "trivial" and FULL_NAMES[provider] not in listed:
                continue

            def measure(provider: str = provider, path: Path = path) -> dict:
                start = time.perf_counter()
                model = open_session(path, providers=provider)
                opened = time.perf_counter() - start
                outputs = model.run(random_feeds("cpu", 1))
                loads = model.providers[0] == provider
                result: dict = {"loads": loads, "runs_on": model.providers[0], "open_seconds": round(opened, 2),
                                "finite": bool(torch.isfinite(outputs[0]).all())}
                if model.warning:
                    result["note"] = model.warning
                return result | (count_nodes(path, FULL_NAMES[provider], setup.folder) if loads else {})

            yield attempt({"network": name, "provider": provider, "listed": FULL_NAMES[provider] in listed}, measure)


def count_nodes(path: Path, provider: str, folder: Path) -> dict:
    """Runs a network once in a session that is profiled. Returns how many nodes each provider ran."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "onnxruntime")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=list(dict.fromkeys((provider, "CPUExecutionProvider"))))
    session.run(None, {name: values.numpy() for name, values in random_feeds("cpu", 1).items()})
    profile = Path(session.end_profiling())
    events = json.loads(profile.read_text(encoding="utf-8"))
    profile.unlink()
    ran = Counter(event["args"]["provider"] for event in events if event.get("args", {}).get("provider"))
    return {"nodes": ", ".join(f"{count} {name.removesuffix('ExecutionProvider')}" for name, count in ran.most_common())}


def random_feeds(device: str, rows: int) -> dict[str, torch.Tensor]:
    """Makes the inputs of the doubles: ``rows`` pictures and one source, on the device."""
    from bench.doubles import EDGE, LATENT

    random = torch.Generator().manual_seed(0)
    picture, source = torch.rand(rows, 3, EDGE, EDGE, generator=random), torch.randn(1, LATENT, generator=random)
    return {"target": picture.to(device), "source": (source / LATENT**0.5).to(device)}


class WatchedSession:
    """An onnxruntime session that notes which memory its inputs and outputs were bound to."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs: dict[str, int] = {}
        self.outputs: list[tuple[str, int]] = []

    def io_binding(self) -> WatchedBinding:
        return WatchedBinding(self._session.io_binding(), self)

    def run_with_iobinding(self, binding: WatchedBinding, options: Any = None) -> None:
        self._session.run_with_iobinding(binding.inner, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class WatchedBinding:
    """The binding of a ``WatchedSession``."""

    def __init__(self, inner: Any, session: WatchedSession) -> None:
        self.inner, self._watching = inner, session

    def bind_input(self, name: str, device: str, number: int, dtype: Any, shape: Any, pointer: int) -> None:
        self._watching.inputs[name] = pointer
        self.inner.bind_input(name, device, number, dtype, shape, pointer)

    def get_outputs(self) -> list:
        values = self.inner.get_outputs()
        self._watching.outputs = [(value.device_name(), value.data_ptr()) for value in values]
        return values

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def binding(setup: Setup) -> Iterator[dict]:
    """Yields a row per network and number of rows: whether inputs were read where they lay, where the outputs are, the bytes that went
    between card and host, the difference to the CPU's outputs, and milliseconds beside those of a run by way of the host's memory."""
    need("onnx", "onnxruntime")
    from faceloom.models.errors import FaceLoomError
    from faceloom.models.runtime.onnx import open_session

    from bench.card.scene import ONNX_NAMES, onnx_file

    for name in ONNX_NAMES:
        path = onnx_file(setup, name)
        for count in (1, 4):

            def measure(path: Path = path, count: int = count) -> dict:
                model = open_session(path, providers=setup.device)
                if model.providers[0] != setup.device:
                    raise FaceLoomError(model.warning or f"the session runs on {model.providers[0]}")
                if count > 1 and not model.takes_batches():
                    return {"note": "this network is not run in batches here"}
                watched = model._session = WatchedSession(model._session)
                feeds = random_feeds(setup.device, count)
                feeds["source"] = feeds["source"].expand(count, -1).contiguous()
                outputs = model.run_once(feeds)
                (outputs_on, pointer), inputs = watched.outputs[0], dict(watched.inputs)
                arrays = {key: values.cpu().numpy() for key, values in feeds.items()}
                expected = open_session(path, providers="cpu").run(random_feeds("cpu", count))
                bound = time_task(lambda: model.run_once(feeds), setup.device, setup.runs)
                by_host = time_task(lambda: model.run_once(arrays), setup.device, setup.runs)
                moved = count_transfers(lambda: model.run_once(feeds), setup.device)
                result = {"inputs_in_place": inputs == {key: values.data_ptr() for key, values in feeds.items()},
                          "outputs_on": outputs_on, "result_on": outputs[0].device.type,
                          "outputs_in_place": pointer == outputs[0].data_ptr(),
                          "difference_to_cpu": float((outputs[0].cpu().float() - expected[0].cpu().float()).abs().max()), **moved}
                if "to_host_bytes" in moved:
                    result["no_picture_copied"] = max(moved["to_card_bytes"], moved["to_host_bytes"]) <= SMALL_BYTES
                return result | {"ms": statistics.median(bound), "ms_by_host": statistics.median(by_host),
                                 "card_ms": time_on_card(lambda: model.run_once(feeds), setup.device), "runs_ms": bound,
                                 "runs_by_host_ms": by_host}

            yield attempt({"network": name, "rows": count, "device": setup.device}, measure)

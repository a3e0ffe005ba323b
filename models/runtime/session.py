"""Opening an onnxruntime session on the provider that really loads, with the options that suit face networks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ..errors import FaceLoomError
from ..files.cache import cache_folder
from ..files.onnx import OnnxFile
from .memory import OnnxMemoryError, is_out_of_memory, release_cached_memory, request_card_memory
from .providers import CARD_PROVIDERS, NUMBERED_PROVIDERS, PROVIDERS, Machine, fall_back_warning, onnxruntime, providers_to_try, short_name

CPU, CUDA, TENSORRT = PROVIDERS["cpu"], PROVIDERS["cuda"], PROVIDERS["tensorrt"]

# What the libraries behind a provider take on the card beside the weights.
LIBRARY_BYTES = 256 << 20


def create_session(name: str, source: str | bytes, file: OnnxFile, request: str | Sequence[str], threads: int | None, key: str):
    """A session on the first provider that really loads: ``(session, short names in use, warning)``.

    file: the parsed source. key: tells this file from all others.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # its threads would slow what follows
    there = ort.get_available_providers()
    tried: dict[str, str] = {}  # why each provider before the one in use did not load
    for provider in providers_to_try(request, there):
        if provider in (CUDA, TENSORRT) and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        if short_name(provider) in CARD_PROVIDERS:
            request_card_memory(weight_bytes(file) + LIBRARY_BYTES)
        try:
            session = _open(source, options, _chain(provider, there, key))
        except Exception as error:
            if provider == CPU:
                raise _unopened(name, error) from error
            tried[short_name(provider)] = first_line(error)
            continue
        used = session.get_providers()
        if used[0] == provider:
            break
        tried[short_name(provider)] = "its libraries could not be loaded"
    warning = fall_back_warning(request, there, short_name(used[0]), tried, Machine.here())
    return session, tuple(short_name(provider) for provider in used), warning


def card_of(session) -> torch.device | None:
    """The card whose memory the session shares with torch's tensors, or None."""
    first = session.get_providers()[0]
    if first not in (CUDA, TENSORRT) or not torch.cuda.is_available():
        return None
    return torch.device("cuda", int(session.get_provider_options()[first].get("device_id", 0)))


def weight_bytes(file: OnnxFile) -> int:
    """Bytes of a network's weights, wherever they lie."""
    return sum(math.prod(tensor.shape) * (tensor.dtype.itemsize if tensor.dtype else 2) for tensor in file.initializers)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _open(source: str | bytes, options, chain: list):
    """The library would quietly go on on the CPU if the first provider fails, now or in any later run; here it does not."""
    try:
        session = onnxruntime().InferenceSession(source, options, providers=chain, enable_fallback=0)
    except Exception as error:
        if chain[0][0] == CPU or not is_out_of_memory(error):
            raise
    else:
        session._model_bytes = None  # kept for that fallback only, and as large as the file
        return session
    release_cached_memory()
    request_card_memory(None)
    return onnxruntime().InferenceSession(source, options, providers=chain, enable_fallback=0)


def _chain(provider: str, there: Sequence[str], key: str) -> list[tuple[str, Mapping[str, str]]]:
    """The provider and those that take the nodes it does not know, each with its options."""
    behind = [CUDA] if provider == TENSORRT and CUDA in there else []
    return [(each, _options(each, key)) for each in dict.fromkeys((provider, *behind, CPU))]


def _options(provider: str, key: str) -> dict[str, str]:
    options = {}
    if short_name(provider) in NUMBERED_PROVIDERS and torch.cuda.is_available():
        options["device_id"] = str(torch.cuda.current_device())  # ComfyUI's; onnxruntime would take the first
    if provider == CUDA:
        # Every batch is another shape: an exhaustive search would be made for each, and takes all memory while it lasts.
        options |= {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
    elif provider == TENSORRT:
        # An engine is found again by its graph, not its weights, so every file has a folder. In half precision inswapper overflows.
        folder = str(_engines(key))
        options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": folder, "trt_timing_cache_enable": "1",
                    "trt_timing_cache_path": folder, "trt_fp16_enable": "0"}
    return options


def _engines(key: str) -> Path:
    folder = cache_folder() / "tensorrt" / hashlib.sha256(key.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _unopened(name: str, error: Exception) -> FaceLoomError:
    if is_out_of_memory(error):
        return OnnxMemoryError(f"{name} is too big for the memory that is free; close other programs or use a smaller model.")
    return FaceLoomError(f"{name} cannot be opened by onnxruntime: {first_line(error)}")

"""Opens onnxruntime sessions on the first provider that really loads, with the options that suit face networks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ..errors import FaceLoomError
from ..files.home import cache_folder
from ..files.onnx import OnnxFile
from .memory import OnnxMemoryError, is_out_of_memory, release_cached_memory, request_card_memory
from .providers import CARD_PROVIDERS, NUMBERED_PROVIDERS, PROVIDERS, Machine, fall_back_warning, onnxruntime, providers_to_try, short_name

CPU, CUDA, TENSORRT = PROVIDERS["cpu"], PROVIDERS["cuda"], PROVIDERS["tensorrt"]

# Bytes that the libraries behind a provider take on the card besides the weights.
LIBRARY_BYTES = 256 << 20


def create_session(name: str, source: str | bytes, file: OnnxFile, request: str | Sequence[str], threads: int | None, key: str):
    """Open a session on the first provider that really loads. Returns the session, the short names of its providers, and the warning for
    the user, or "".

    name: for messages. source: the path or bytes of the model. file: the same model, parsed. request: as for ``providers_to_try``.
    threads: for the CPU; None: torch's number. key: tells this file from all others. FaceLoomError where not even the CPU opens it.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # its threads would slow what follows
    available = ort.get_available_providers()
    tried: dict[str, str] = {}  # why each provider before the one in use did not load
    for provider in providers_to_try(request, available):
        if provider in (CUDA, TENSORRT) and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        if short_name(provider) in CARD_PROVIDERS:
            request_card_memory(weight_bytes(file) + LIBRARY_BYTES)
        try:
            session = _open(source, options, _with_fallbacks(provider, available, key))
        except Exception as error:
            if provider == CPU:
                raise _opening_error(name, error) from error
            tried[short_name(provider)] = first_line(error)
            continue
        used = session.get_providers()
        if used[0] == provider:
            break
        tried[short_name(provider)] = "its libraries could not be loaded"
    warning = fall_back_warning(request, available, short_name(used[0]), tried, Machine.here())
    return session, tuple(short_name(provider) for provider in used), warning


def card_of(session) -> torch.device | None:
    """Return the graphics card whose memory a session shares with torch's tensors; None for sessions elsewhere."""
    first = session.get_providers()[0]
    if first not in (CUDA, TENSORRT) or not torch.cuda.is_available():
        return None
    return torch.device("cuda", int(session.get_provider_options()[first].get("device_id", 0)))


def weight_bytes(file: OnnxFile) -> int:
    """Return the bytes of a network's weights, in the file or beside it."""
    return sum(math.prod(tensor.shape) * (tensor.dtype.itemsize if tensor.dtype else 2) for tensor in file.initializers)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _open(source: str | bytes, options, chain: list):
    """Open a session; where memory runs out, once more after room was made.

    onnxruntime's own fallback is off: it would quietly go on on the CPU if the first provider failed, now or in any later run.
    """
    try:
        session = onnxruntime().InferenceSession(source, options, providers=chain, enable_fallback=0)
    except Exception as error:
        if chain[0][0] == CPU or not is_out_of_memory(error):
            raise
    else:
        session._model_bytes = None  # kept for that fallback alone, and as large as the file
        return session
    release_cached_memory()
    request_card_memory(None)
    return onnxruntime().InferenceSession(source, options, providers=chain, enable_fallback=0)


def _with_fallbacks(provider: str, available: Sequence[str], key: str) -> list[tuple[str, Mapping[str, str]]]:
    """List the provider and those that run the nodes it does not support, each with its options."""
    behind = [CUDA] if provider == TENSORRT and CUDA in available else []
    return [(each, _options(each, key)) for each in dict.fromkeys((provider, *behind, CPU))]


def _options(provider: str, key: str) -> dict[str, str]:
    """Return the options of a provider."""
    options = {}
    if short_name(provider) in NUMBERED_PROVIDERS and torch.cuda.is_available():
        options["device_id"] = str(torch.cuda.current_device())  # ComfyUI's; onnxruntime would take the first
    if provider == CUDA:
        # Every batch is another shape: an exhaustive search would be made for each, and takes all memory while it lasts.
        options |= {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
    elif provider == TENSORRT:
        # An engine is found again by its graph, not its weights, so every file has a folder. In half precision inswapper overflows.
        folder = str(_engine_folder(key))
        options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": folder, "trt_timing_cache_enable": "1",
                    "trt_timing_cache_path": folder, "trt_fp16_enable": "0"}
    return options


def _engine_folder(key: str) -> Path:
    """Return the folder in which TensorRT keeps the engines of one file; it is made if it is not there."""
    folder = cache_folder() / "tensorrt" / hashlib.sha256(key.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _opening_error(name: str, error: Exception) -> FaceLoomError:
    """Return the error for a model that onnxruntime cannot open even on the CPU."""
    if is_out_of_memory(error):
        return OnnxMemoryError(f"{name} is too big for the memory that is free; close other programs or use a smaller model.")
    return FaceLoomError(f"{name} cannot be opened by onnxruntime: {first_line(error)}")

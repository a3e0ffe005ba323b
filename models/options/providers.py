"""Where ONNX networks can run; ``runtime/providers.py`` chooses."""

from __future__ import annotations

from collections.abc import Mapping

# onnxruntime's names by short name. TensorRT spends minutes on building an engine, so "auto" never tries it.
PROVIDERS: Mapping[str, str] = {
    "cuda": "CUDAExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

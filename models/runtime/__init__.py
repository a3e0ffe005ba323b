"""Runs networks: devices, memory, onnxruntime's providers and sessions, and the form in which a network takes its input."""

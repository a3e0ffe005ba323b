"""The smallest file that is an ONNX model: a graph with one output, and nothing else."""

SMALLEST_ONNX = b"\x08\x07\x3a\x05\x62\x03\x0a\x01y"

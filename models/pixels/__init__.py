"""Arithmetic on picture tensors: matrices, sampling, resizing, masks and edges. Knows no faces, files or networks."""

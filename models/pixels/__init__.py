"""Arithmetic on picture tensors: matrices, sampling, resizing, blurs, masks, edges and drawing. Knows no faces, files or networks."""

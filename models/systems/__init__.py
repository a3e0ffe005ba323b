"""The published diffusion systems for face swapping: REFace, DiffSwap, DiffFace and Face-Adapter."""

"""Several photographs of one person to one vector."""

from __future__ import annotations

import numpy as np

from ..errors import FaceLoomError

# Cosine from which two faces are taken for the same person. dlib128: its published distance of 0.6 between vectors of length 1.4.
SAME_PERSON = {"dlib128": 0.91, "w600k": 0.30}
HOW = ("average", "median", "quality-weighted")


def same_person_cosine(space: str) -> float:
    """The usual cosine threshold of an embedding space (0.3, an ArcFace network's, where nothing is known)."""
    return SAME_PERSON.get(space, 0.30)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows (or one vector) scaled to length 1."""
    vectors = np.asarray(vectors, np.float64)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.isfinite(length).all() or (length == 0).any():
        raise FaceLoomError("An embedding is zero or not finite; make the identity again from another photo.")
    return (vectors / length).astype(np.float32)


def outliers(vectors: np.ndarray, threshold: float) -> list[int]:
    """Rows of ``[N, D]`` that look like somebody else: the median of their cosines to the other rows is below ``threshold``."""
    count = len(vectors)
    if count < 2:
        return []
    cosines = vectors @ vectors.T
    return [i for i in range(count) if np.median(np.delete(cosines[i], i)) < threshold]


def combine(vectors: np.ndarray, how: str, weights: np.ndarray | None = None) -> np.ndarray:
    """Unit rows ``[N, D]`` to one unit vector.

    average: the mean. median: of every component, so that a minority of wrong photos hardly moves it. quality-weighted: the mean
    with ``weights`` ``[N]``.
    """
    if how == "average":
        return unit(vectors.mean(0))
    if how == "median":
        return unit(np.median(vectors, axis=0))
    if how == "quality-weighted":
        weights = np.ones(len(vectors)) if weights is None or not weights.sum() > 0 else weights
        return unit((vectors * weights[:, None]).sum(0))
    raise FaceLoomError(f"how must be one of {', '.join(HOW)}, not {how!r}.")


def report(vectors: np.ndarray, frames: np.ndarray, quality: np.ndarray, space: str, strange: list[int], how: str) -> str:
    """The similarity matrix and what stands out, as text; photos are numbered from 1."""
    count = len(vectors)
    cosines = vectors @ vectors.T
    lines = [f"{count} photo(s), {how}, {space}: cosine between photos (same person from {same_person_cosine(space):.2f})"]
    lines.append("photo  image  quality" + "".join(f"{i + 1:>7}" for i in range(count)))
    for i in range(count):
        row = "".join(f"{c:>7.3f}" for c in cosines[i])
        lines.append(f"{i + 1:>5}  {frames[i] + 1:>5}  {quality[i]:>7.2f}{row}{'  ← another person?' if i in strange else ''}")
    if strange and len(strange) == count:
        lines.append("The photos look like more than one person.")
    elif strange:
        names = ", ".join(str(i + 1) for i in strange)
        done = {"average": "is still in the average; take it out or choose median", "median": "hardly counts in the median",
                "quality-weighted": "is left out"}[how]
        lines.append(f"Photo {names} looks like another person and {done}.")
    return "\n".join(lines)

"""Several photos of one person combined to one vector, and a report of how alike they are."""

from __future__ import annotations

import numpy as np

from ..errors import FaceLoomError

# Cosine from which two faces are taken for the same person, by embedding space.
# dlib128: its published distance of 0.6 between vectors of length 1.4.
SAME_PERSON = {"dlib128": 0.91, "w600k": 0.30}
COMBINE_METHODS = ("average", "median", "quality-weighted")


def same_person_cosine(space: str) -> float:
    """Return the cosine from which two faces of an embedding space are the same person (0.3, an ArcFace network's, for unknown spaces)."""
    return SAME_PERSON.get(space, 0.30)


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Scale rows ``[N, D]`` (or one vector ``[D]``) to length 1, float32. A length of zero, infinity or NaN is a FaceLoomError."""
    vectors = np.asarray(vectors, np.float64)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.isfinite(length).all() or (length == 0).any():
        raise FaceLoomError("An embedding is zero or not finite; make the identity again from another photo.")
    return (vectors / length).astype(np.float32)


def outliers(vectors: np.ndarray, threshold: float) -> list[int]:
    """Return the indices of the unit rows ``[N, D]`` that look like somebody else: the median of their cosines to the other rows is
    below ``threshold``."""
    count = len(vectors)
    if count < 2:
        return []
    cosines = vectors @ vectors.T
    return [i for i in range(count) if np.median(np.delete(cosines[i], i)) < threshold]


def combine(vectors: np.ndarray, how: str, weights: np.ndarray | None = None) -> np.ndarray:
    """Combine unit rows ``[N, D]`` to one unit vector ``[D]``.

    how: ``"average"`` is the mean; ``"median"`` that of every component, so that a minority of wrong photos hardly moves it;
    ``"quality-weighted"`` the mean with ``weights`` ``[N]`` (all alike where there are none, or all are 0).
    """
    if how == "average":
        return unit_vectors(vectors.mean(0))
    if how == "median":
        return unit_vectors(np.median(vectors, axis=0))
    if how == "quality-weighted":
        weights = np.ones(len(vectors)) if weights is None or not weights.sum() > 0 else weights
        return unit_vectors((vectors * weights[:, None]).sum(0))
    raise FaceLoomError(f"how must be one of {', '.join(COMBINE_METHODS)}, not {how!r}.")


def similarity_report(vectors: np.ndarray, frames: np.ndarray, quality: np.ndarray, space: str, strange: list[int], how: str) -> str:
    """Write the cosines between photos and what stands out as text; photos and images are numbered from 1.

    vectors: unit rows ``[N, D]`` of an embedding ``space``. frames, quality: ``[N]``. strange: rows that look like somebody else
    (``outliers``). how: the method by which the rows are combined.
    """
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
        numbers = ", ".join(str(i + 1) for i in strange)
        effect = {"average": "is still in the average; take it out or choose median", "median": "hardly counts in the median",
                "quality-weighted": "is left out"}[how]
        lines.append(f"Photo {numbers} looks like another person and {effect}.")
    return "\n".join(lines)

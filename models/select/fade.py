"""How much of a swap shows along a clip, so that it comes and goes softly."""

from __future__ import annotations

import numpy as np

from ..faces import Faces
from ..identity.quality import frontality
from .track import track_runs

TURNED_AWAY = .1  # frontality below which a face is turned too far away: about 60 degrees


def fade_weights(faces: Faces, fade: int) -> np.ndarray:
    """Return for every face how much of its swap shows, ``[N]`` 0..1.

    fade: over how many frames a swap comes where a track begins, and goes where it ends or the face turns too far away; 0 shows all of
    every swap. Where a track begins or ends with a shot or with the clip nothing fades, for there it comes and goes with the picture.
    """
    weights = np.ones(len(faces))
    if fade <= 0:
        return weights
    for run in track_runs(faces):
        first, last = faces[run[0]].frame, faces[run[-1]].frame
        hidden = {faces[i].frame for i in run if frontality(faces[i]) < TURNED_AWAY}
        hidden |= {first - 1} if first > 0 and first not in faces.cuts else set()
        hidden |= {last + 1} if last < faces.frames - 1 and last + 1 not in faces.cuts else set()
        if hidden:
            ends = np.array(sorted(hidden))
            for i in run:
                weights[i] = min(1.0, float(np.abs(ends - faces[i].frame).min()) / (fade + 1))
    return weights

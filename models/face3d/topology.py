"""Indices of MediaPipe's 478-point mesh: rings of vertices, and the 68 iBUG points.

Left and right are the viewer's. Rings run clockwise as the viewer sees them.
"""

from __future__ import annotations

import numpy as np

FACE_OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
             152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)  # fmt: skip
OUTER_LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
LEFT_EYE = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
RIGHT_EYE = (362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382)
LEFT_BROW = (70, 63, 105, 66, 107, 55, 65, 52, 53, 46)
RIGHT_BROW = (336, 296, 334, 293, 300, 276, 283, 282, 295, 285)
LEFT_IRIS = (468, 469, 470, 471, 472)  # centre first
RIGHT_IRIS = (473, 474, 475, 476, 477)

# The jaw's 17 points lie between vertices of the oval from temple to chin. Their positions along it, and the inner corners of the eyes,
# are medians of dlib's points in 143 photos.
_LEFT_JAW = (127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152)
_RIGHT_JAW = (356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152)
_JAW_POSITIONS = (0, 1.25, 2.5, 3.5, 4.75, 6, 7.75, 9.5, 11)
_INNER_VERTICES = (
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,  # brows
    168, 197, 195, 4, 75, 97, 2, 326, 305,  # nose
    33, 160, 158, 155, 153, 144, 382, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,  # lips
)  # fmt: skip


def _weights_68() -> np.ndarray:
    """Compute how much of each vertex makes each of the 68 points: ``[68, 478]``."""
    weights = np.zeros((68, 478), np.float32)
    weights[np.arange(17, 68), _INNER_VERTICES] = 1
    for ring, points in ((_LEFT_JAW, range(9)), (_RIGHT_JAW, range(16, 7, -1))):
        for point, at in zip(points, _JAW_POSITIONS, strict=True):
            below, part = int(at), at % 1
            weights[point] = 0
            weights[point, ring[below]] = 1 - part
            if part:
                weights[point, ring[below + 1]] = part
    weights.setflags(write=False)
    return weights


WEIGHTS_68 = _weights_68()  # [68, 478], rows add up to 1


def points68_from_mesh(mesh: np.ndarray) -> np.ndarray:
    """Compute the 68 points ``[..., 68, D]`` float32 of a mesh ``[..., 478, D]``."""
    return WEIGHTS_68 @ np.asarray(mesh, np.float32)

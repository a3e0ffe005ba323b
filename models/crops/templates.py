"""Templates: where networks want the five points of a face, as fractions of their input's edge."""

from __future__ import annotations

import numpy as np

from ..faces import FFHQ_TEMPLATE
from ..options.ranges import check_number
from ..pixels.affine import similarity
from .crop import LARGEST_EDGE

# Left eye, right eye, nose tip, left and right mouth corner, as fractions of the crop's edge.
TEMPLATES: dict[str, np.ndarray] = {
    name: np.array(values, np.float64).reshape(5, 2)
    for name, values in {
        "arcface_112_v1": (.35473214, .45658929, .64526786, .45658929, .5, .61154464, .37913393, .776875, .62086607, .776875),
        "arcface_112_v2": (.34191607, .46157411, .65653393, .45983393, .500225, .64050536, .37097589, .82469196, .63151696, .82325089),
        "arcface_128": (.36167656, .40387734, .63696719, .40235469, .50019687, .56044219, .38710391, .72160547, .61507734, .72034453),
        "dfl_whole_face": (.35342266, .39285716, .62797622, .39285716, .48660713, .5401786, .38839287, .68750011, .59821427, .68750011),
        "mtcnn_512": (.36562865, .46733799, .63305391, .46585885, .50019127, .61942959, .39032951, .77598822, .61178945, .77476328),
        "styleganex_384": (.42353745, .52289879, .57725008, .52319972, .50123859, .61331904, .43364461, .68337652, .57015325, .68306005),
    }.items()
} | {"ffhq_512": FFHQ_TEMPLATE}


def template_matrix(keypoints: np.ndarray, template: str, size: int) -> np.ndarray:
    """Return image → network input of ``size`` pixels, ``[..., 2, 3]``, for ``[..., 5, 2]`` keypoints.

    By insightface's convention template times size is a pixel coordinate, whose integers are pixel centres.
    """
    check_number("The edge of the network's input", size, 1, LARGEST_EDGE)
    return similarity(keypoints, TEMPLATES[template] * size)

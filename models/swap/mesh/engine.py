"""The built-in engine: draws the source's photo as the texture of a 3-D face in the target's pose.

The method is that of FaceSwap (2017), and adds to it: shape apart from expression (``face3d/expression.py``), visibility in both
photos, hair and hats that stay, the target's own mouth, and the light of the scene.
"""

from __future__ import annotations

import torch

from ...crops.crop import crop_faces, crop_matrix
from ...errors import FaceLoomError
from ...face3d.expression import nearest_pose, reference_fits
from ...face3d.fit import fit_face
from ...faces import Faces, Identity
from ...options.swap import USUAL, SwapSettings
from ...progress import Progress, silent
from .draw import draw
from .texture import ReferencePhoto


class MeshEngine:
    """A ``SwapEngine`` that draws the source's photo on a fitted 3-D face. Needs no network and no GPU."""

    name = "mesh"
    swap_in_threads = True

    def prepare(self, identity: Identity) -> list[ReferencePhoto]:
        """Returns the identity's photos with a face fitted to each; FaceLoomError where it has none."""
        if not len(identity.crops):
            raise FaceLoomError("This identity has no photograph in it, only an embedding; use a network as swap_model, or make the "
                                "identity from photos with ArcFace Embed.")  # fmt: skip
        return [ReferencePhoto(crop, fit) for crop, fit in zip(identity.crops, reference_fits(identity), strict=True)]

    def check_settings(self, settings: SwapSettings) -> None:
        """Raises FaceLoomError for settings that ``swap`` refuses."""
        settings.check("The built-in warp can only show the source photo as it is; use a strength from 0 to 1, or a swap model.")

    def swap(self, images: torch.Tensor, faces: Faces, source: list[ReferencePhoto], settings: SwapSettings = USUAL,
             progress: Progress = silent) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``SwapEngine.swap``; the masks are 1 wherever the crop differs from the photograph.

        ``strength`` morphs shape and colour from the target's (0) to the source's (1); above 1 is an error, since a photo shows no more
        than the person. ``pixel_boost`` is ignored: the texture is drawn at the crop's own resolution.
        """
        self.check_settings(settings)
        size = settings.edge(faces)
        crops = crop_faces(images, faces, size)
        masks = torch.zeros(crops.shape[:3], device=crops.device)
        if settings.strength == 0:
            return crops, masks
        references = [photo.fit for photo in source]
        for i, face in enumerate(faces):
            target = fit_face(face)
            texture = source[nearest_pose(references, target)].texture.to(crops.device)
            crops[i], masks[i] = draw(crops[i], crop_matrix(face, size, faces.framing), target, texture, settings.strength)
            progress(i + 1, len(faces))
        return crops, masks

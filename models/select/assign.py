"""Settles for single faces whom they become."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import FaceLoomError
from ..faces import Face, Faces, Identity


def assign_identity(faces: Faces, chosen: Faces, identity: Identity) -> Faces:
    """Return ``faces``, in which those that are in ``chosen`` too become ``identity``; the others keep what was settled for them.

    chosen: some of these faces, from Face Select. FaceLoomError where a chosen face is none of ``faces``.
    """
    if (chosen.frames, chosen.height, chosen.width) != (faces.frames, faces.height, faces.width):
        raise FaceLoomError("The chosen faces come from another picture or clip; choose them among the faces that are connected here.")
    wanted = {_place(face) for face in chosen}
    missing = wanted - {_place(face) for face in faces}
    if missing:
        raise FaceLoomError(f"{len(missing)} of the {len(wanted)} chosen face(s) are not among the faces; connect the faces that Face "
                            "Select was given, not smoothed or aligned ones.")
    items = tuple(replace(face, identity=identity) if _place(face) in wanted else face for face in faces)
    return replace(faces, items=items)


def check_anyone_known(faces: Faces, identity: Identity | None) -> None:
    """Raise FaceLoomError where there are faces, and neither an identity for them nor one of their own."""
    if identity is None and len(faces) and all(face.identity is None for face in faces):
        raise FaceLoomError("Connect the identity that the faces become, or give faces a person of their own with Face Assign.")


def group_by_identity(faces: Faces) -> list[tuple[Identity | None, list[int]]]:
    """Return the positions of the faces that become the same person, in the order in which the people first appear; None are those for whom
    nothing is settled."""
    people: dict[int, tuple[Identity | None, list[int]]] = {}
    for i, face in enumerate(faces):
        people.setdefault(id(face.identity), (face.identity, []))[1].append(i)
    return list(people.values())


def _place(face: Face) -> tuple[int, bytes]:
    """Return what tells a face from all others of the same pictures."""
    return face.frame, np.ascontiguousarray(face.keypoints).tobytes()

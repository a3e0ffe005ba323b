"""Between the two passes: numbers the people of a clip, chooses among them, and makes their faces steady."""

from __future__ import annotations

from dataclasses import replace

from ..faces import Face, Faces
from ..options.clip import FollowSettings
from ..options.detect import ORDERS
from ..select.fill import fill_gaps
from ..select.rules import SelectionRule, select_faces
from ..select.smooth import smooth_faces
from .find import FoundFaces


def number_people(found: FoundFaces, order: str) -> FoundFaces:
    """Return what was found with the people numbered anew, from 0, in ``order`` (a key of ``ORDERS``), each taken at their largest
    sighting. People who are equal in it stay in the order in which they appear."""
    largest: dict[int, Face] = {}
    for face in found.faces:
        if face.track is not None and face.size > getattr(largest.get(face.track), "size", 0):
            largest[face.track] = face
    ordered = sorted(sorted(largest), key=lambda track: ORDERS[order](largest[track]))
    numbers = {track: number for number, track in enumerate(ordered)}
    items = tuple(face if face.track is None else replace(face, track=numbers[face.track]) for face in found.faces)
    views = {numbers[track]: view for track, view in found.views.items() if track in numbers}
    return replace(found, faces=replace(found.faces, items=items), views=views)


def choose_people(faces: Faces, keep: str) -> Faces:
    """Return the faces of the people whose numbers ``keep`` names: all, first, or numbers as ``kept_positions`` reads them. FaceLoomError
    for other words."""
    return select_faces(faces, SelectionRule("person", person=keep))[0]


def count_people(faces: Faces) -> int:
    """Return how many people there are in faces that are numbered from 0."""
    return 1 + max((face.track for face in faces if face.track is not None), default=-1)


def steady_faces(faces: Faces, settings: FollowSettings) -> Faces:
    """Return the faces with those that were missed for a moment, moving steadily from frame to frame, as ``settings`` ask."""
    settings.check()
    filled = fill_gaps(faces, settings.fill)
    if settings.smooth == "off":
        return filled
    numbers = {"jump": 0} if settings.smooth == "running mean" else {}  # tracks and cuts say where a run breaks
    return smooth_faces(filled, settings.smooth, **numbers)

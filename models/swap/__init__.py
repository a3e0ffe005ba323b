"""Photographs, their faces and an identity in, crops that show the identity out: the engine protocol and ``swap_faces``.

``load.py`` opens engines. Nothing here imports torch before faces are swapped, because the command line lists the engines' options, and
torch takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..faces import Faces, Identity
from ..options.swap import USUAL, SwapSettings
from ..progress import Progress, silent
from ..runtime.options import Options, Value

if TYPE_CHECKING:
    import torch


@runtime_checkable
class SwapEngine(Protocol):
    """Draws an identity over target faces."""

    name: str

    def prepare(self, identity: Identity) -> Any:
        """Returns what ``swap`` needs of the identity, worked out once; the caller keeps it as long as it swaps this person.

        It belongs to this engine with these options and must not be handed to another one. FaceLoomError where the identity lacks what the
        engine looks at.
        """

    def swap(self, images: torch.Tensor, faces: Faces, source: Any, settings: SwapSettings = USUAL, progress: Progress = silent
             ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns crops ``[N, S, S, 3]`` of the faces of ``images`` ``[B, H, W, 3]``, and masks ``[N, S, S]`` of where they show the new
        face; outside its mask a crop is the target's own.

        source: what ``prepare`` returned; not looked at where the strength is 0. FaceLoomError for settings the engine cannot do.
        """
        ...


@runtime_checkable
class WithOptions(Protocol):
    """An engine that has options; ``load.options_by_method`` lists those of every method."""

    name: str
    options: Options

    def with_options(self, **options: Value) -> WithOptions:
        """Returns an engine with the same networks and other options."""
        ...


@runtime_checkable
class DrawsAtSize(Protocol):
    """An engine whose network draws pictures of one size. size: their edge in pixels."""

    name: str
    size: int


@runtime_checkable
class AlignsFaces(Protocol):
    """An engine that works on crops of its own alignment and size."""

    name: str
    alignment: str | None

    def align(self, faces: Faces) -> Faces:
        """Returns the faces with those crops, for ``swap`` and for pasting."""
        ...


@runtime_checkable
class ChecksSettings(Protocol):
    """An engine that tells without swapping which settings it cannot do."""

    def check_settings(self, settings: SwapSettings) -> None:
        """Raises FaceLoomError for settings that ``swap`` refuses."""


@runtime_checkable
class UsesOneCore(Protocol):
    """An engine whose work hardly gains by a second core, and which several threads may ask at the same time. swap_in_threads: True."""

    swap_in_threads: bool


@runtime_checkable
class OpensLate(Protocol):
    """An engine that opens files of other stages when they are first asked."""

    def open_helpers(self, settings: SwapSettings) -> None:
        """Opens what ``swap`` will ask with these settings; FaceLoomError where it is missing or damaged."""


@runtime_checkable
class OpensFile(Protocol):
    """A helper whose file is opened when it is first asked."""

    def open_file(self) -> Any:
        """Opens the file; FaceLoomError where it is damaged or something else."""


def open_files(*helpers: object) -> None:
    """Opens the files of those helpers that have not opened theirs yet."""
    for helper in helpers:
        if isinstance(helper, OpensFile):
            helper.open_file()


def swap_faces(images: torch.Tensor, faces: Faces, source: Any, engine: SwapEngine | None = None,
               settings: SwapSettings = USUAL, *, which: str = "all", mask: torch.Tensor | None = None,
               progress: Progress = silent) -> tuple[torch.Tensor, torch.Tensor]:
    """Swaps faces of ``images`` ``[B, H, W, 3]`` float32 0..1. Returns crops ``[N, S, S, 3]`` and masks ``[N, S, S]`` of all ``faces``.

    source: an ``Identity``, or what ``engine.prepare`` made of one, which spares working it out for every call; faces that have an
    ``identity`` of their own become that one instead. With None the faces that have none are not swapped. engine: None is the built-in mesh
    warp. which: the faces to swap, ``"all"``, ``"first"`` or positions such as ``"0,2,-1"`` or ``"0-3"``. Faces that are not swapped keep
    the target's crop and get a mask of zeros. mask: how much of the new faces may show where (any mask form, crop space, one for all faces
    or one for each); the engine's masks are multiplied by it, where it is 0 the crops are the target's, bit for bit, and a face it leaves
    nothing of is not swapped. LoadImage's placeholder is no mask.
    """
    import torch

    from ..crops.crop import crop_faces
    from ..pixels.tensors import check_images
    from ..select.assign import group_by_identity
    from ..select.which import which_faces

    settings.check()
    check_images(images)
    faces.check_image(images.shape)
    size = settings.edge(faces)
    chosen = [i for i in which_faces(faces, which) if source is not None or settings.strength == 0 or faces[i].identity is not None]
    shown = _visible_part(mask, len(faces), size)
    if shown is not None:
        left = (shown.amax((1, 2)) > 0).tolist()
        chosen = [i for i in chosen if left[i]]
    engine = engine or _default_engine()

    def swap(person: Identity | None, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        taken = faces.take(positions)
        swapped = _swap(images, taken, source if person is None else person, engine, settings, progress)
        if shown is not None:
            swapped = _behind_mask(crop_faces(images, taken, size), *swapped, shown if len(taken) == len(faces) else shown[positions])
        return swapped

    people = [(person, [chosen[i] for i in members]) for person, members in group_by_identity(faces.take(chosen))]
    if len(people) == 1 and len(chosen) == len(faces):
        return swap(*people[0])
    crops = torch.empty((len(faces), size, size, 3), device=images.device)
    others = [i for i in range(len(faces)) if i not in chosen]
    crops[others] = crop_faces(images, faces.take(others), size)
    masks = crops.new_zeros(crops.shape[:3])
    for person, members in people:
        crops[members], masks[members] = swap(person, members)
    return crops, masks


def _default_engine() -> SwapEngine:
    from .mesh.engine import MeshEngine

    return MeshEngine()


def _swap(images: torch.Tensor, faces: Faces, source: Any, engine: SwapEngine, settings: SwapSettings, progress: Progress
          ) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(source, Identity) and settings.strength != 0:
        source = engine.prepare(source)
    return engine.swap(images, faces, source, settings, progress)


def _visible_part(mask: torch.Tensor | None, count: int, size: int) -> torch.Tensor | None:
    """Brings a mask to ``[count, size, size]``. Returns None where there is none: LoadImage's placeholder, unless the crops have its size.
    """
    from ..pixels.masks import fit_mask, is_placeholder

    if mask is None or count == 0 or (is_placeholder(mask) and size != mask.shape[-1]):
        return None
    return fit_mask(mask, count, size, size)


def _behind_mask(targets: torch.Tensor, crops: torch.Tensor, masks: torch.Tensor, shown: torch.Tensor
                 ) -> tuple[torch.Tensor, torch.Tensor]:
    """Lets an engine's crops and masks show as far as ``shown`` ``[N, S, S]`` says. The crops are mixed into ``targets`` ``[N, S, S, 3]``,
    in place."""
    shown = shown.to(targets.device)
    return targets.lerp_(crops.to(targets), shown[..., None]), masks * shown.to(masks)


def lost_detail(faces: Faces, engine: SwapEngine | None, pixel_boost: int = 1) -> str:
    """Returns what to do where crops are too small for what the engine draws and the photograph could show; else ""."""
    from ..crops.crop import crop_matrices
    from ..pixels.affine import scale_of

    if not len(faces) or not isinstance(engine, DrawsAtSize):
        return ""
    drawn = engine.size * pixel_boost
    if drawn <= faces.crop_size or float(scale_of(crop_matrices(faces, faces.crop_size)).min()) >= 1:
        return ""
    return (f"{engine.name} draws {drawn} pixels, and crops of {faces.crop_size} are smaller than the face is in the picture; set "
            f"crop_size {drawn} in Face Detect to keep the detail.")

"""DiffFace (Kim et al. 2022, arXiv 2212.13344): a pixel-space diffusion model that is told who to paint, guided step by step by a
recognizer, a face parser and a gaze estimator, while the target outside the face stays as it is.

Pictures are ``[N, 3, n, n]`` -1..1 here. The networks are handed in as callables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.blending import target_preserving_factor
from ..diffusion.ddpm import DdpmSchedule, ddpm_schedule
from ..diffusion.guidance import FACE_CLASSES, eye_crops, gaze_loss, identity_loss, parser_loss
from ..errors import FaceLoomError
from ..progress import Progress, silent
from .diffface_views import PLAIN, Look, random_look, view

SIZE = 256
_FACE, _PARSED, _COMPARED = 112, 512, 256
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Weights:
    """What pulls and how firmly; as released unless given. Times are shares of the schedule, 1 being noise.

    squared: of the parser's scores the squared difference. gaze_from, gaze_to: between which times gaze acts. full: up to which time the
    whole face is repainted; before that the target shines through (the ramp of target-preserving blending).
    """

    identity: float = 6000.0
    expression: float = 200.0
    gaze: float = 200.0
    keep: float = 50.0
    squared: bool = False
    gaze_from: float = 0.1
    gaze_to: float = 0.5
    full: float = 0.3
    views: int = 8

    def gaze_at(self, time: float) -> float:
        """The weight of gaze at a time, 0 to 1."""
        return self.gaze if self.gaze_from < time < self.gaze_to else 0.0


# What the paper names otherwise than its released code.
PRESETS = {"released": Weights(), "paper": Weights(identity=2000.0, expression=150.0, squared=True, full=0.4)}


@dataclass(frozen=True)
class Settings:
    """steps of the whole schedule, of which the first ``skip`` are left out: sampling starts from the noised target. repeats: tries per
    face. through: whether the gradient goes through the denoiser, or only through the picture it predicts, in a third of the time."""

    steps: int = 100
    skip: int = 25
    repeats: int = 4
    weights: Weights = PRESETS["released"]
    through: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.skip < self.steps:
            raise FaceLoomError(f"skip must be at least 0 and less than the {self.steps} steps, not {self.skip}.")
        if self.repeats < 1 or self.weights.views < 1:
            raise FaceLoomError("repeats and views must be at least 1.")

    @property
    def first(self) -> int:
        """How many steps are made."""
        return self.steps - self.skip


@dataclass(frozen=True, eq=False)
class Experts:
    """The networks. denoise: pictures, times ``[N]``, unit identities ``[N, 512]`` to ``[N, 6, n, n]``. embed: ``[N, 3, 112, 112]`` to
    ``[N, 512]``. parse: ``[N, 3, n, n]`` to scores ``[N, 19, n, n]``. gaze: grey eyes ``[N, 96, 160]`` to ``[N, 2]``."""

    denoise: Callable[[Tensor, Tensor, Tensor], Tensor]
    embed: Callable[[Tensor], Tensor]
    parse: Callable[[Tensor], Tensor] | None = None
    gaze: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Scene:
    """What stays fixed while faces are painted: targets ``[N, 3, n, n]``, masks ``[N, 1, n, n]`` of 0 and 1, unit identities ``[N, 512]``,
    eye boxes per face, and what the experts see in the targets."""

    targets: Tensor
    masks: Tensor
    identities: Tensor
    boxes: Sequence[np.ndarray] | None = None
    scores: Tensor | None = None
    looks: Tensor | None = None


def normal(pictures: Tensor) -> Tensor:
    """By ImageNet's mean and spread."""
    mean, std = (pictures.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
    return ((pictures + 1) / 2 - mean) / std


def parsed(experts: Experts, pictures: Tensor, size: int = _COMPARED) -> Tensor:
    """The parser's scores ``[N, 19, size, size]``. It is fed pictures that were normalised twice, as released."""
    large = F.interpolate((normal(pictures) - 0.5) / 0.5, (_PARSED, _PARSED), mode="bilinear", align_corners=False)
    return F.interpolate(experts.parse(large), (size, size), mode="bilinear", align_corners=False)


def gazes(experts: Experts, pictures: Tensor, boxes: Sequence[np.ndarray]) -> Tensor:
    """``[N, 2, 2]`` pitch and yaw of both eyes."""
    eyes = torch.cat([eye_crops((picture[None] + 1) / 2, pair) for picture, pair in zip(pictures, boxes, strict=True)])
    return experts.gaze(eyes.flatten(0, 1)).reshape(len(pictures), 2, 2)


def small(pictures: Tensor) -> Tensor:
    """As the recognizer takes them: the nearest pixels."""
    return F.interpolate(pictures, (_FACE, _FACE), mode="nearest")


def identity_of(experts: Experts, portraits: Tensor) -> Tensor:
    """``[512]`` of one person's portraits ``[K, 3, n, n]``."""
    vectors = F.normalize(experts.embed(small(normal(portraits))), dim=1)
    return F.normalize(vectors.mean(0), dim=0)


def face_masks(experts: Experts, targets: Tensor) -> Tensor:
    """``[N, 1, n, n]`` 1 where the parser sees skin, brows, eyes, nose, mouth or lips."""
    best = parsed(experts, targets, targets.shape[-1]).argmax(1, keepdim=True)
    return torch.isin(best, torch.tensor(FACE_CLASSES, device=best.device)).to(targets.dtype)


def set_scene(experts: Experts, targets: Tensor, identity: Tensor, weights: Weights, masks: Tensor | None = None,
              boxes: Sequence[np.ndarray] | None = None) -> Scene:
    """What the experts see in the targets. identity: ``[512]``. masks: where to swap, the parser's face unless given."""
    masks = face_masks(experts, targets) if masks is None else masks
    scene = Scene(targets, masks, identity.expand(len(targets), -1), boxes)
    if weights.expression > 0:
        scene = replace(scene, scores=parsed(experts, targets))
    if weights.gaze > 0:
        scene = replace(scene, looks=gazes(experts, targets, boxes))
    return scene


def losses(experts: Experts, scene: Scene, pictures: Tensor, time: float, weights: Weights, looks: Sequence[Sequence[Look]]
           ) -> dict[str, Tensor]:
    """``[N]`` by name, weighted, of those that act at this time (0..1). looks: the views of each picture."""
    made = {}
    if weights.identity > 0:
        faces = small(scene.masks * normal(pictures))
        views = torch.stack([torch.stack([view(face, look) for look in own]) for face, own in zip(faces, looks, strict=True)], 1)
        vectors = experts.embed(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        made["identity"] = weights.identity * identity_loss(vectors, scene.identities)
    if weights.expression > 0:
        made["expression"] = weights.expression * parser_loss(parsed(experts, pictures), scene.scores, weights.squared)
    if weights.gaze_at(time) > 0:
        made["gaze"] = weights.gaze * gaze_loss(gazes(experts, pictures, scene.boxes), scene.looks)
    if weights.keep > 0:
        made["keep"] = weights.keep * (pictures - scene.targets).square().mean((1, 2, 3))
    return made


@dataclass(frozen=True, eq=False)
class Step:
    """What one step made: the picture it predicts, the mean and log variance of the next one without guidance, and the guidance, the
    gradient that is added ``variance`` times to the mean."""

    clean: Tensor
    mean: Tensor
    log_variance: Tensor
    gradient: Tensor

    def sample(self, noise: Tensor | None) -> Tensor:
        """The next picture; without noise after the last step."""
        mean = self.mean + self.log_variance.exp() * self.gradient
        return mean if noise is None else mean + (0.5 * self.log_variance).exp() * noise


def guided_step(experts: Experts, plan: DdpmSchedule, scene: Scene, x: Tensor, step: int, settings: Settings,
                looks: Sequence[Sequence[Look]]) -> Step:
    """One denoising step of pictures ``x`` (Kim et al., algorithm 1). Must not run in inference mode."""
    weights, leaf, time = settings.weights, x.detach().requires_grad_(True), step / settings.steps
    acts = max(weights.identity, weights.expression, weights.gaze_at(time), weights.keep) > 0
    times = torch.full((len(x),), float(plan.times[step]), device=x.device)
    with torch.set_grad_enabled(settings.through and acts):
        noise, share = experts.denoise(leaf, times, scene.identities).chunk(2, 1)
    gradient = torch.zeros_like(x)
    if acts:
        with torch.enable_grad():
            seen = between(plan, plan.clean(leaf, noise, step), leaf, step)
            made = losses(experts, scene, seen, time, weights, looks)
            gradient = -torch.autograd.grad(sum(made.values()).sum(), leaf)[0]
    clean = plan.clean(x, noise.detach(), step)
    return Step(clean, *plan.step_back(x, clean, share.detach(), step), gradient)


def between(plan: DdpmSchedule, clean: Tensor, x: Tensor, step: int) -> Tensor:
    """What the experts look at: the more of the predicted picture and the less of the noisy one, the more noise there is."""
    part = (1 - plan.alpha_bars[step]) ** 0.5
    return clean * part + x * (1 - part)


def blend(plan: DdpmSchedule, scene: Scene, x: Tensor, step: int, settings: Settings, noise: Tensor) -> Tensor:
    """Target-preserving blending after a step: outside the face, and early on inside it too, the target as noisy as it is at that step."""
    masks = scene.masks * target_preserving_factor(step, settings.first, settings.weights.full * settings.steps)
    return x * masks + plan.noised(scene.targets, step, noise) * (1 - masks)


class Chance:
    """The randomness of one try at one face; independent of everything else that is painted with it."""

    def __init__(self, seed: int, attempt: int) -> None:
        self._views = np.random.default_rng((seed, attempt))
        self._noise = torch.Generator().manual_seed(int(self._views.integers(1 << 63)))

    def noise(self, like: Tensor) -> Tensor:
        """``[3, n, n]``."""
        return torch.randn(like.shape, generator=self._noise).to(like)

    def looks(self, count: int) -> list[Look]:
        """The face as it is, and ``count`` - 1 views."""
        return [PLAIN, *(random_look(self._views) for _ in range(count - 1))]


def paint(experts: Experts, scene: Scene, settings: Settings, chances: Sequence[Chance], progress: Progress = silent,
          show: Callable[[Tensor], None] | None = None) -> Tensor:
    """One try at every face of a scene: ``[N, 3, n, n]``, outside the masks the targets' own pixels. show: is given predictions."""
    plan = ddpm_schedule(settings.steps)

    def noise() -> Tensor:
        return torch.stack([chance.noise(target) for chance, target in zip(chances, scene.targets, strict=True)])

    x = plan.noised(scene.targets, settings.first - 1, noise())
    for step in reversed(range(settings.first)):
        looks = [chance.looks(settings.weights.views) for chance in chances]
        made = guided_step(experts, plan, scene, x, step, settings, looks)
        x = blend(plan, scene, made.sample(noise() if step else None), step, settings, noise())
        if show:
            show(made.clean)
        progress(settings.first - step, settings.first)
    if not bool(torch.isfinite(made.clean).all()):
        raise FaceLoomError("DiffFace answered NaN; load it in full precision.")
    return torch.where(scene.masks > 0, made.clean.clamp(-1, 1), scene.targets)


def distances(experts: Experts, scene: Scene, pictures: Tensor) -> Tensor:
    """``[N]`` 0..2 from each picture's face to who it should be, what tries are ranked by."""
    vectors = experts.embed(small(scene.masks * normal(pictures)))
    return 1 - F.cosine_similarity(vectors, scene.identities)


def best_of(tries: Tensor, apart: Tensor, place: int = 1) -> Tensor:
    """``[N, ...]`` of tries ``[R, N, ...]`` with distances ``[R, N]``: per face the ``place``-th nearest, 1 being the nearest."""
    order = apart.argsort(dim=0, stable=True)
    return tries[order[min(place, len(order)) - 1], torch.arange(tries.shape[1], device=order.device)]

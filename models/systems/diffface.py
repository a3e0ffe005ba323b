"""DiffFace (Kim et al. 2022, arXiv 2212.13344): a pixel-space diffusion model that is conditioned on an identity and guided step by step by
a recognizer, a face parser and a gaze estimator, while the target outside the face stays as it is.

Crops are ``[N, 3, n, n]`` -1..1 here. The networks are handed in as functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.blending import target_preserving_factor
from ..diffusion.ddpm import DdpmSchedule, ddpm_schedule
from ..diffusion.guidance import FACE_CLASSES, eye_crops, gaze_loss, identity_loss, parser_loss
from ..errors import FaceLoomError, given
from ..progress import Progress, silent
from ..runtime.input import normalize_channels
from .diffface_views import UNCHANGED, View, apply_view, random_view

SIZE = 256
# Edges in pixels of what the recognizer and the parser are given, and of the scores that are compared.
_RECOGNIZER_SIZE, _PARSER_SIZE, _SCORES_SIZE = 112, 512, 256
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NO_PARSER = "DiffFace finds the face and holds its expression by a face parser; hand one in, or hand in masks and set expression to 0."
_NO_GAZE = "DiffFace holds the gaze by a gaze estimator and boxes of the eyes; hand both in, or set gaze to 0."
_OTHER_WEIGHTS = "The scene was made with other weights than the faces are painted with; make it with the same."

# Of both eyes of each crop, ``[N, 2, 4]``: x0, y0, x1, y1.
EyeBoxes = Sequence[np.ndarray] | np.ndarray


@dataclass(frozen=True)
class LossWeights:
    """The weights of the guidance losses; the defaults are the released program's. Times are shares of the schedule, 1 being noise.

    keep: weight of the squared difference to the target's pixels. squared: whether differences of the parser's scores are squared.
    gaze_from, gaze_to: between which times the gaze acts. full: up to which time the whole face is repainted; before that the target
    shines through (the ramp of target-preserving blending). views: how many views of the face the identity is measured in.
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
        """Return the weight of the gaze at a time 0..1."""
        return self.gaze if self.gaze_from < time < self.gaze_to else 0.0


# "paper" has the numbers that the paper states otherwise than its released program.
PRESETS = {"released": LossWeights(), "paper": LossWeights(identity=2000.0, expression=150.0, squared=True, full=0.4)}


@dataclass(frozen=True)
class Settings:
    """The numbers of one swap.

    steps: of the whole schedule, of which the first ``skip`` are left out: sampling starts from the noised target. repeats: attempts per
    face, of which the ``place``-th most alike is taken (1 is the most alike). through: whether the gradient goes through the denoiser, or
    only through the crop it predicts, which takes a third of the time. seed: of the first face's noise; the next faces take the numbers
    that follow.
    """

    steps: int = 100
    skip: int = 25
    repeats: int = 4
    weights: LossWeights = PRESETS["released"]
    through: bool = True
    seed: int = 0
    place: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.skip < self.steps:
            raise FaceLoomError(f"skip must be at least 0 and less than the {self.steps} steps, not {self.skip}.")
        if self.repeats < 1 or self.weights.views < 1:
            raise FaceLoomError("repeats and views must be at least 1.")

    @property
    def sampled_steps(self) -> int:
        """How many steps are made."""
        return self.steps - self.skip


@dataclass(frozen=True, eq=False)
class Networks:
    """The networks as functions.

    denoise: crops, times ``[N]`` and unit identities ``[N, 512]`` to ``[N, 6, n, n]``. embed: ``[N, 3, 112, 112]`` to ``[N, 512]``. parse:
    ``[N, 3, n, n]`` to scores ``[N, 19, n, n]``. gaze: grey eyes ``[N, 96, 160]`` to ``[N, 2]``.
    """

    denoise: Callable[[Tensor, Tensor, Tensor], Tensor]
    embed: Callable[[Tensor], Tensor]
    parse: Callable[[Tensor], Tensor] | None = None
    gaze: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Scene:
    """What stays fixed while faces are painted.

    targets: crops. masks: ``[N, 1, n, n]`` of 0 and 1, where to paint. identities: unit ``[N, 512]``. eye_boxes: where the gaze acts.
    scores, gazes: the parser's and the gaze estimator's outputs for the targets, where expression and gaze act.
    """

    targets: Tensor
    masks: Tensor
    identities: Tensor
    eye_boxes: EyeBoxes | None = None
    scores: Tensor | None = None
    gazes: Tensor | None = None


def normalize(crops: Tensor) -> Tensor:
    """Normalize crops by ImageNet's mean and standard deviation."""
    return normalize_channels((crops + 1) / 2, _IMAGENET_MEAN, _IMAGENET_STD)


def parser_scores(networks: Networks, crops: Tensor, size: int = _SCORES_SIZE) -> Tensor:
    """Return the parser's scores ``[N, 19, size, size]``. It is given crops that are normalized twice, as in the released program."""
    large = F.interpolate((normalize(crops) - 0.5) / 0.5, (_PARSER_SIZE, _PARSER_SIZE), mode="bilinear", align_corners=False)
    return F.interpolate(given(networks.parse, _NO_PARSER)(large), (size, size), mode="bilinear", align_corners=False)


def estimate_gazes(networks: Networks, crops: Tensor, boxes: EyeBoxes) -> Tensor:
    """Return pitch and yaw ``[N, 2, 2]`` of both eyes, in radians."""
    eyes = torch.cat([eye_crops((crop[None] + 1) / 2, pair) for crop, pair in zip(crops, boxes, strict=True)])
    return given(networks.gaze, _NO_GAZE)(eyes.flatten(0, 1)).reshape(len(crops), 2, 2)


def shrink_for_recognizer(crops: Tensor) -> Tensor:
    """Return ``[N, 3, 112, 112]`` by the nearest pixels, as the released program does."""
    return F.interpolate(crops, (_RECOGNIZER_SIZE, _RECOGNIZER_SIZE), mode="nearest")


def embed_portraits(networks: Networks, portraits: Tensor) -> Tensor:
    """Return the mean embedding, unit ``[512]``, of one person's portraits ``[K, 3, n, n]``."""
    vectors = F.normalize(networks.embed(shrink_for_recognizer(normalize(portraits))), dim=1)
    return F.normalize(vectors.mean(0), dim=0)


def find_face_masks(networks: Networks, targets: Tensor) -> Tensor:
    """Return ``[N, 1, n, n]`` with 1 where the parser finds skin, brows, eyes, nose, mouth or lips."""
    best = parser_scores(networks, targets, targets.shape[-1]).argmax(1, keepdim=True)
    return torch.isin(best, torch.tensor(FACE_CLASSES, device=best.device)).to(targets.dtype)


def make_scene(networks: Networks, targets: Tensor, identity: Tensor, weights: LossWeights, masks: Tensor | None = None,
               boxes: EyeBoxes | None = None) -> Scene:
    """Run the networks that the weights need on the target crops.

    identity: unit ``[512]``. masks: where to paint; None paints the face that the parser finds. boxes: of the eyes, needed for the gaze.
    """
    masks = find_face_masks(networks, targets) if masks is None else masks
    scene = Scene(targets, masks, identity.expand(len(targets), -1), boxes)
    if weights.expression > 0:
        scene = replace(scene, scores=parser_scores(networks, targets))
    if weights.gaze > 0:
        scene = replace(scene, gazes=estimate_gazes(networks, targets, given(boxes, _NO_GAZE)))
    return scene


def weighted_losses(networks: Networks, scene: Scene, crops: Tensor, time: float, weights: LossWeights, views: Sequence[Sequence[View]]
                    ) -> dict[str, Tensor]:
    """Return the losses ``[N]`` by name, times their weights, of those that act at this time (0..1). views: those of each crop."""
    losses = {}
    if weights.identity > 0:
        faces = shrink_for_recognizer(scene.masks * normalize(crops))
        viewed = torch.stack([torch.stack([apply_view(face, view) for view in own]) for face, own in zip(faces, views, strict=True)], 1)
        vectors = networks.embed(viewed.flatten(0, 1)).unflatten(0, viewed.shape[:2])
        losses["identity"] = weights.identity * identity_loss(vectors, scene.identities)
    if weights.expression > 0:
        wanted = given(scene.scores, _OTHER_WEIGHTS)
        losses["expression"] = weights.expression * parser_loss(parser_scores(networks, crops), wanted, weights.squared)
    if weights.gaze_at(time) > 0:
        gazes = estimate_gazes(networks, crops, given(scene.eye_boxes, _OTHER_WEIGHTS))
        losses["gaze"] = weights.gaze * gaze_loss(gazes, given(scene.gazes, _OTHER_WEIGHTS))
    if weights.keep > 0:
        losses["keep"] = weights.keep * (crops - scene.targets).square().mean((1, 2, 3))
    return losses


@dataclass(frozen=True, eq=False)
class GuidedStep:
    """The results of one step: the predicted clean crops, mean and log variance of the next crops without guidance, and the guidance's
    gradient, which is added to the mean ``variance`` times."""

    clean: Tensor
    mean: Tensor
    log_variance: Tensor
    gradient: Tensor

    def sample(self, noise: Tensor | None) -> Tensor:
        """Return the next crops; after the last step there is no noise."""
        mean = self.mean + self.log_variance.exp() * self.gradient
        return mean if noise is None else mean + (0.5 * self.log_variance).exp() * noise


def guided_step(networks: Networks, schedule: DdpmSchedule, scene: Scene, x: Tensor, step: int, settings: Settings,
                views: Sequence[Sequence[View]]) -> GuidedStep:
    """Make one denoising step of noisy crops ``x`` (Kim et al., algorithm 1). Must not run in inference mode."""
    weights, leaf, time = settings.weights, x.detach().requires_grad_(True), step / settings.steps
    guided = max(weights.identity, weights.expression, weights.gaze_at(time), weights.keep) > 0
    times = torch.full((len(x),), float(schedule.times[step]), device=x.device)
    with torch.set_grad_enabled(settings.through and guided):
        noise, variance_share = networks.denoise(leaf, times, scene.identities).chunk(2, 1)
    gradient = torch.zeros_like(x)
    if guided:
        with torch.enable_grad():
            mixed = mix_with_prediction(schedule, schedule.clean(leaf, noise, step), leaf, step)
            losses = weighted_losses(networks, scene, mixed, time, weights, views)
            gradient = -torch.autograd.grad(reduce(add, losses.values()).sum(), leaf)[0]
    clean = schedule.clean(x, noise.detach(), step)
    return GuidedStep(clean, *schedule.step_back(x, clean, variance_share.detach(), step), gradient)


def mix_with_prediction(schedule: DdpmSchedule, clean: Tensor, x: Tensor, step: int) -> Tensor:
    """Return the crops that the losses look at: the more noise there is at a step, the more of the predicted crops and the less of the
    noisy ones."""
    share = (1 - schedule.alpha_bars[step]) ** 0.5
    return clean * share + x * (1 - share)


def blend_with_target(schedule: DdpmSchedule, scene: Scene, x: Tensor, step: int, settings: Settings, noise: Tensor) -> Tensor:
    """Blend the crops after a step with the target under as much noise as there is at that step: outside the face, and early on inside it
    too (target-preserving blending)."""
    masks = scene.masks * target_preserving_factor(step, settings.sampled_steps, settings.weights.full * settings.steps)
    return x * masks + schedule.noised(scene.targets, step, noise) * (1 - masks)


class AttemptRandom:
    """The random numbers of one attempt at one face; independent of everything else that is painted with it."""

    def __init__(self, seed: int, attempt: int) -> None:
        self._views = np.random.default_rng((seed, attempt))
        self._noise = torch.Generator().manual_seed(int(self._views.integers(1 << 63)))

    def noise(self, like: Tensor) -> Tensor:
        """Return normal noise of the shape ``[3, n, n]``, type and device of ``like``."""
        return torch.randn(like.shape, generator=self._noise).to(like)

    def views(self, count: int) -> list[View]:
        """Return the unchanged view and ``count`` - 1 random ones."""
        return [UNCHANGED, *(random_view(self._views) for _ in range(count - 1))]


def paint(networks: Networks, scene: Scene, settings: Settings, randoms: Sequence[AttemptRandom], progress: Progress = silent,
          show: Callable[[Tensor], None] | None = None) -> Tensor:
    """Make one attempt at every face of a scene and return crops with the targets' own pixels outside the masks.

    randoms: one per face. show: is given the predicted clean crops of every step. Crops with NaN are an error.
    """
    schedule = ddpm_schedule(settings.steps)

    def noise() -> Tensor:
        return torch.stack([random.noise(target) for random, target in zip(randoms, scene.targets, strict=True)])

    x = schedule.noised(scene.targets, settings.sampled_steps - 1, noise())
    for step in reversed(range(settings.sampled_steps)):
        views = [random.views(settings.weights.views) for random in randoms]
        result = guided_step(networks, schedule, scene, x, step, settings, views)
        x = blend_with_target(schedule, scene, result.sample(noise() if step else None), step, settings, noise())
        if show:
            show(result.clean)
        progress(settings.sampled_steps - step, settings.sampled_steps)
    if not bool(torch.isfinite(result.clean).all()):
        raise FaceLoomError("DiffFace returned NaN; load it in full precision.")
    return torch.where(scene.masks > 0, result.clean.clamp(-1, 1), scene.targets)


def identity_distances(networks: Networks, scene: Scene, crops: Tensor) -> Tensor:
    """Return the cosine distances ``[N]`` 0..2 between each painted face and the identity, by which attempts are ranked."""
    vectors = networks.embed(shrink_for_recognizer(scene.masks * normalize(crops)))
    return 1 - F.cosine_similarity(vectors, scene.identities)


def choose_attempts(attempts: Tensor, distances: Tensor, place: int = 1) -> Tensor:
    """Return ``[N, ...]``: of attempts ``[R, N, ...]`` with distances ``[R, N]`` the ``place``-th nearest of each face, 1 being the
    nearest; the farthest where there are fewer."""
    order = distances.argsort(dim=0, stable=True)
    return attempts[order[min(place, len(order)) - 1], torch.arange(attempts.shape[1], device=order.device)]

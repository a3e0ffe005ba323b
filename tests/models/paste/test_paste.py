"""Pasting: exact outside the mask, faithful inside, and in the right place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_faces, crop_matrices, cut_crops
from faceloom.models.crops.templates import TEMPLATES
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces
from faceloom.models.options.paste import BLENDS, COLORS, PasteSettings
from faceloom.models.paste import Place, blends, edited_weight, paste
from faceloom.models.pixels.affine import invert, scale_of, transform
from faceloom.models.pixels.tensors import to_uint8
from scipy import sparse
from scipy.sparse.linalg import spsolve
from skimage.registration import phase_cross_correlation


def square(edge: float, x: float, y: float, angle: float = 0.0) -> np.ndarray:
    """Keypoints of a face whose canonical crop is ``edge`` image pixels wide around (x, y)."""
    c, s = np.cos(angle) * edge, np.sin(angle) * edge
    return (TEMPLATES["ffhq_512"] - 0.5) @ np.array([[c, s], [-s, c]]) + (x, y)


def faces_of(images: torch.Tensor, *keypoints: np.ndarray, frames=None, crop_size=256) -> Faces:
    items = tuple(Face(frames[i] if frames else 0, [*k.min(0), *k.max(0)], k) for i, k in enumerate(keypoints))
    return Faces(items, *images.shape[:3], crop_size=crop_size)


def disc(size: int, radius: float = 0.4, soft: float = 0.0) -> torch.Tensor:
    y, x = np.mgrid[:size, :size]
    distance = np.hypot(x - (size - 1) / 2, y - (size - 1) / 2) / size
    return torch.from_numpy(np.clip((radius - distance) / soft, 0, 1) if soft else (distance < radius)).to(torch.float32)[None]


def psnr(first: torch.Tensor, second: torch.Tensor, where: torch.Tensor) -> float:
    return float(-10 * torch.log10((first - second)[where].square().mean()))


@pytest.fixture(scope="module")
def portraits(collins, hopper):
    return [(collins, faces_of(collins, square(160, 225.3, 124.8, 0.1))), (hopper, faces_of(hopper, square(220, 256.4, 190.1, -0.07)))]


@pytest.mark.parametrize("size", [1.0, 1.25, 1.6, 2.0, 3.3])
def test_an_untouched_crop_changes_nothing(portraits, size):
    for image, faces in portraits:
        size_pixels = round(size / float(scale_of(crop_matrices(faces, 1))[0]))
        out, covered = paste(image, faces, crop_faces(image, faces, size_pixels), disc(size_pixels))
        assert torch.equal(out, image) and float(covered.sum()) > 5000


@pytest.mark.parametrize(("size", "least"), [(1.0, 40), (1.25, 45), (1.35, 47), (1.45, 41), (1.55, 42), (1.75, 44), (2.05, 45), (3.3, 45)])
def test_the_bare_round_trip_is_faithful(portraits, size, least):
    """Resampled there and back, with nothing kept."""
    for image, faces in portraits:
        size_pixels = round(size / float(scale_of(crop_matrices(faces, 1))[0]))
        out, covered = paste(image, faces, crop_faces(image, faces, size_pixels), disc(size_pixels), PasteSettings(keep_unchanged=False))
        assert psnr(out, image, covered > 0) > least
        assert torch.equal(out[covered == 0], image[covered == 0])


@pytest.mark.parametrize(("size", "levels"), [(200, 1), (256, 1), (320, 1.1), (420, 1.1)])
def test_band_limited_pictures_come_back_within_about_one_level(size, levels):
    y, x = np.mgrid[:400, :420]
    image = torch.from_numpy((0.5 + 0.4 * np.stack([np.sin(x / 5), np.cos((x + y) / 7), np.sin(y / 5)], -1)).astype(np.float32))[None]
    faces = faces_of(image, square(160, 210.3, 199.6, 0.3))
    out, covered = paste(image, faces, crop_faces(image, faces, size), disc(size), PasteSettings(keep_unchanged=False))
    assert float((out - image).abs().max()) < levels / 255 and float((covered > 0.99).sum()) > 10000


@pytest.mark.parametrize("size", [180, 256, 300, 480, 800])
def test_no_shift(portraits, size):
    """Every way of reading back, by phase correlation."""
    for image, faces in portraits:
        out, covered = paste(image, faces, crop_faces(image, faces, size), disc(size), PasteSettings(keep_unchanged=False))
        rows, columns = (torch.nonzero((covered[0] > 0).any(d))[:, 0] for d in (1, 0))
        inside = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        window = np.outer(np.hanning(len(rows)), np.hanning(len(columns)))
        pair = [picture[0, ..., 1][inside].numpy() * window for picture in (image, out)]
        assert np.abs(phase_cross_correlation(*pair, upsample_factor=200)[0]).max() < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("blend", BLENDS)
def test_nothing_changes_outside_the_mask(channels, dtype, blend):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 210, 230, channels, generator=generator).to(dtype)
    images[0, 0, 0] = -0.0
    images[1, 5, 5] = 1.5
    before = images.clone()
    faces = faces_of(images, square(120, 100, 100, 0.4), square(90, 5, 180), frames=[0, 1])
    crops = torch.rand(2, 150, 150, 3, generator=generator)
    out, covered = paste(images, faces, crops, disc(64, 0.3, 0.1), PasteSettings(blend=blend))
    assert out.dtype == dtype and out.shape == images.shape and covered.shape == (2, 210, 230)
    assert torch.equal(images, before)
    outside = covered == 0
    bits = torch.int16 if dtype == torch.float16 else torch.int32
    assert torch.equal(out[outside].view(bits), images[outside].view(bits))
    assert float((out[..., :3][covered > 0.9] - images[..., :3][covered > 0.9]).abs().mean()) > 0.05
    if channels == 4:
        assert torch.equal(out[..., 3], images[..., 3])


def test_half_precision_agrees_with_single(portraits):
    image, faces = portraits[0]
    crops = crop_faces(image, faces).flip(2)
    single, _ = paste(image, faces, crops, disc(256))
    half, _ = paste(image.half(), faces, crops, disc(256))
    assert float((half - single).abs().max()) < 1.5e-3


def test_a_flat_crop_lands_where_the_mask_says(collins):
    """The mask in the photograph is the disc's own circle, to a tenth of a pixel of its radius and centre."""
    faces = faces_of(collins, square(200, 240.4, 250.7, 0.6))
    out, covered = paste(collins, faces, torch.full((1, 320, 320, 3), 0.25), disc(320, 0.35))
    y, x = np.mgrid[:512, :512]
    weight = covered[0].numpy()
    middle = transform([[159.5, 159.5]], invert(crop_matrices(faces, 320)[0]))[0]
    assert abs((x * weight).sum() / weight.sum() - middle[0]) < 0.05 and abs((y * weight).sum() / weight.sum() - middle[1]) < 0.05
    assert abs(np.sqrt(weight.sum() / np.pi) - 0.35 * 200) < 0.1
    assert (out[covered == 1] - 0.25).abs().max() < 1e-6
    blended = collins + covered[..., None] * (0.25 - collins)
    assert (out - blended).abs().max() < 1e-6


def test_a_partial_edit_leaves_the_rest_of_the_face(portraits):
    for image, faces in portraits:
        crops = crop_faces(image, faces)
        crops[:, 150:190, 90:160] = 1 - crops[:, 150:190, 90:160]
        out, covered = paste(image, faces, crops, disc(256))
        everything, _ = paste(image, faces, crops, disc(256), PasteSettings(keep_unchanged=False))
        corners = transform([[80, 140], [170, 140], [80, 200], [170, 200]], invert(crop_matrices(faces, 256)[0]))
        changed = torch.nonzero((out != image).any(-1)[0]).numpy()[:, ::-1]
        assert (changed >= corners.min(0) - 1).all() and (changed <= corners.max(0) + 1).all()
        center = transform([[125, 170]], invert(crop_matrices(faces, 256)[0]))[0].round().astype(int)
        near = (0, slice(center[1] - 8, center[1] + 8), slice(center[0] - 8, center[0] + 8))
        assert torch.equal(out[near], everything[near])
        assert float((covered > 0).sum()) > 4 * len(changed)


@pytest.mark.parametrize("edit", ["all", "part", "none"])
def test_crops_that_are_held_are_compared_with_instead_of_being_cut_again(portraits, edit, monkeypatch):
    image, faces = portraits[1]
    crops = crop_faces(image, faces)
    if edit != "none":
        part = np.s_[:] if edit == "all" else np.s_[:, 150:190, 90:160]
        crops[part] = 1 - crops[part]
    expected = paste(image, faces, crops, disc(256))[0]
    assert torch.equal(expected, image) == (edit == "none")
    faces, held = cut_crops(image, faces)
    with monkeypatch.context() as patch:
        cut = Place.cut
        patch.setattr(Place, "cut", lambda self, size, step=1.0: cut(self, size, step) if step > 1 else pytest.fail("cut again"))
        assert torch.equal(paste(image, faces, crops, disc(256))[0], expected)
    del held
    assert torch.equal(paste(image, faces, crops, disc(256))[0], expected)


@pytest.mark.parametrize("where", [slice(None), slice(90, 170)], ids=["everywhere", "in part"])
def test_crops_that_another_node_wrote_in_are_pasted(portraits, where):
    """No node may write in what it was given, but some do: what Face Detect still holds is then no longer what the photograph gives."""
    image, plain = portraits[0]
    faces, crops = cut_crops(image, plain)
    crops[:, where, where] *= 0.5
    out = paste(image, faces, crops, disc(256))[0]
    del crops
    edited = crop_faces(image, plain)
    edited[:, where, where] *= 0.5
    expected = paste(image, faces, edited, disc(256))[0]
    assert torch.equal(out, expected) and not torch.equal(out, image)


def test_a_thin_edit_is_not_lost(portraits):
    """A line of one crop pixel, which the lattice may miss."""
    image, faces = portraits[1]
    crops = crop_faces(image, faces)
    crops[:, 100:160, 131] = 0
    out, _ = paste(image, faces, crops, disc(256))
    everything, _ = paste(image, faces, crops, disc(256), PasteSettings(keep_unchanged=False))
    line = (everything - image).abs().amax(-1) > 0.1
    assert int(line.sum()) > 30 and torch.equal(out[line], everything[line])


def test_an_8_bit_crop_counts_as_untouched(portraits):
    image, faces = portraits[0]
    crops = torch.from_numpy(to_uint8(crop_faces(image, faces)).astype(np.float32) / 255)
    assert torch.equal(paste(image, faces, crops, disc(256))[0], image)
    crops[:, 100:140, 100:140, 0] = 1
    out, covered = paste(image, faces, crops, disc(256))
    assert 0.02 < float((out != image).any(-1).sum() / (covered > 0).sum()) < 0.12


def test_a_swapped_face_takes_the_fast_path(portraits):
    image, faces = portraits[0]
    place = Place(image, faces, 0, crop_matrices(faces, 256)[0])
    crop = crop_faces(image, faces)[0]
    assert edited_weight(place, crop.flip(1), disc(256)[0]) is None
    assert edited_weight(place, (crop + 0.03).clamp(0, 1), disc(256)[0]) is None
    assert float(edited_weight(place, crop, disc(256)[0]).sum()) == 0
    tiny = torch.zeros(256, 256)
    tiny[3, 3] = 1
    assert float(edited_weight(place, crop, tiny).sum()) == 0


def test_the_larger_face_is_on_top(collins):
    faces = faces_of(collins, square(220, 250, 250), square(180, 330, 250), square(150, 180, 250))
    colors = torch.tensor([0.1, 0.5, 0.9])[:, None, None, None].expand(3, 64, 64, 3)
    out, covered = paste(collins, faces, colors, disc(64, 0.45))
    assert abs(float(out[0, 250, 300, 0]) - 0.1) < 1e-6 and abs(float(out[0, 250, 400, 0]) - 0.5) < 1e-6
    assert abs(float(out[0, 250, 130, 0]) - 0.9) < 1e-6
    backwards, again = paste(collins, faces.take([2, 1, 0]), colors.flip(0), disc(64, 0.45))
    assert torch.equal(out, backwards) and torch.equal(covered, again) and float(covered.max()) <= 1


def test_an_untouched_neighbour_does_not_undo_a_swap(collins):
    """The large face's crop holds the small face as it was; where it is unedited the small face's new pixels survive."""
    faces = faces_of(collins, square(260, 225, 150), square(110, 290, 180))
    crops = crop_faces(collins, faces)
    crops[1] = 0.2
    out, _ = paste(collins, faces, crops, disc(256, 0.48))
    assert abs(float(out[0, 180, 290, 0]) - 0.2) < 1e-5


def test_frames_are_independent(collins, hopper):
    images = torch.stack([collins[0], hopper[0, :512], collins[0]])
    faces = faces_of(images, square(160, 225, 125), square(200, 256, 190), frames=[0, 1])
    crops = torch.rand(2, 128, 128, 3, generator=torch.Generator().manual_seed(2))
    out, covered = paste(images, faces, crops, disc(128))
    assert torch.equal(out[2], images[2]) and float(covered[2].sum()) == 0
    for i, keypoints in enumerate((square(160, 225, 125), square(200, 256, 190))):
        single, _ = paste(images[i:i + 1], faces_of(images[i:i + 1], keypoints), crops[i:i + 1], disc(128))
        assert torch.equal(out[i:i + 1], single)


def test_opacity_scales(portraits):
    image, faces = portraits[0]
    crops = torch.full((1, 100, 100, 3), 0.6)
    full, covered = paste(image, faces, crops, disc(100))
    half, same = paste(image, faces, crops, disc(100), PasteSettings(opacity=0.5))
    assert torch.equal(covered, same) and (half - (image + full) / 2).abs().max() < 1e-6
    assert torch.equal(paste(image, faces, crops, disc(100), PasteSettings(opacity=0))[0], image)


def test_feather_softens_inwards(portraits):
    image, faces = portraits[0]
    crops = torch.full((1, 128, 128, 3), 0.6)
    _, hard = paste(image, faces, crops, disc(128))
    _, soft = paste(image, faces, crops, disc(128), PasteSettings(feather=0.1))
    assert (soft <= hard + 1e-6).all() and float(soft.sum()) < 0.9 * float(hard.sum())
    assert float(((soft > 0.05) & (soft < 0.95)).sum()) > 3 * float(((hard > 0.05) & (hard < 0.95)).sum())


def test_masks_of_another_size_and_beyond_their_range(portraits):
    image, faces = portraits[0]
    crops = torch.full((1, 256, 256, 3), 0.6)
    _, same = paste(image, faces, crops, disc(256, 0.35, 0.1))
    for size in (128, 600):
        assert (paste(image, faces, crops, disc(size, 0.35, 0.1))[1] - same).abs().max() < 0.03
    assert torch.equal(paste(image, faces, crops, disc(256)[0] * 3 - 1)[1], paste(image, faces, crops, disc(256))[1])
    out, covered = paste(image, faces, crops, torch.zeros(1, 256, 256))
    assert torch.equal(out, image) and float(covered.sum()) == 0


def test_without_a_mask_the_face_hull_is_used(collins):
    faces = faces_of(collins, square(160, 225, 125))
    _, covered = paste(collins, faces, torch.full((1, 64, 64, 3), 0.6))
    nose = np.asarray(faces[0].keypoints[2]).round().astype(int)
    assert float(covered[0, nose[1], nose[0]]) > 0.99 and 3000 < float(covered.sum()) < 20000


def test_crops_partly_or_wholly_outside_the_frame(collins):
    faces = faces_of(collins, square(200, 0, 250), square(150, 505, 505), square(100, 900, 900))
    out, covered = paste(collins, faces, torch.full((3, 96, 96, 3), 0.3), disc(96))
    assert abs(float(out[0, 250, 0, 0]) - 0.3) < 1e-6 and abs(float(out[0, 511, 511, 0]) - 0.3) < 1e-6
    assert torch.equal(out[covered == 0], collins[covered == 0])
    assert torch.equal(paste(collins, faces, crop_faces(collins, faces, 96), disc(96))[0], collins)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize("blend", BLENDS)
def test_tiny_images(shape, blend):
    image = torch.full((1, *shape, 3), 0.5)
    faces = faces_of(image, square(40, 0, 0))
    out, covered = paste(image, faces, torch.full((1, 32, 32, 3), 0.9), disc(32), PasteSettings(blend=blend, color="mkl"))
    assert out.shape == image.shape and torch.isfinite(out).all() and float(covered[0, 0, 0]) > 0.9


def test_no_faces():
    images = torch.rand(2, 20, 30, 3)
    out, covered = paste(images, Faces((), 2, 20, 30), torch.zeros(1, 512, 512, 3), torch.zeros(1, 512, 512))
    assert out is images and covered.shape == (2, 20, 30) and float(covered.sum()) == 0


def test_progress_reports_and_interrupts(collins):
    faces = faces_of(collins, square(100, 100, 100), square(90, 300, 300))
    seen = []
    paste(collins, faces, torch.zeros(2, 32, 32, 3), disc(32), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        paste(collins, faces, torch.zeros(2, 32, 32, 3), disc(32), progress=stop)


@pytest.mark.parametrize(("change", "words"), [
    ({"crops": torch.zeros(2, 64, 64, 3)}, "2 crop"), ({"crops": torch.zeros(1, 64, 60, 3)}, "square"),
    ({"crops": torch.zeros(1, 64, 64, 3).half()}, "crops must be a float32"), ({"crops": torch.zeros(1, 64, 64, 4)}, "as_images"),
    ({"masks": torch.zeros(3, 64, 64)}, "3 masks"),
    ({"masks": torch.full((1, 64, 64), torch.nan)}, "NaN"), ({"masks": torch.zeros(1, 1, 64, 64)}, "shape"),
    ({"settings": PasteSettings(color="sepia")}, "color"), ({"settings": PasteSettings(blend="magic")}, "blend"),
    ({"settings": PasteSettings(opacity=1.5)}, "Opacity must be from 0 to 1"),
    ({"settings": PasteSettings(feather=-1)}, "Feather must be from 0 to 0.5"),
    ({"images": torch.zeros(1, 99, 99, 3)}, "Face Detect"), ({"images": torch.zeros(1, 100, 100, 2)}, "picture"),
])
def test_bad_input_says_what_to_do(change, words):
    images = torch.zeros(1, 100, 100, 3)
    call = {"images": images, "faces": faces_of(images, square(60, 50, 50)), "crops": torch.zeros(1, 64, 64, 3),
            "masks": torch.ones(1, 64, 64)} | change
    with pytest.raises(FaceLoomError, match=words):
        paste(**call)


def seam(image: torch.Tensor, covered: torch.Tensor) -> float:
    """Mean step across the mask's border."""
    inside = covered[0] > 0.5
    steps = [(image[0, 1:] - image[0, :-1]).abs().mean(-1)[inside[1:] != inside[:-1]],
             (image[0, :, 1:] - image[0, :, :-1]).abs().mean(-1)[inside[:, 1:] != inside[:, :-1]]]
    return float(torch.cat(steps).mean())


@pytest.mark.parametrize("blend", ["multi-band", "poisson"])
def test_blends_hide_the_seam_of_a_brighter_crop(blend):
    y, x = np.mgrid[:300, :300]
    image = torch.from_numpy((0.4 + 0.1 * np.stack([np.sin(x / 30), np.sin(y / 25), np.cos(x / 40)], -1)).astype(np.float32))[None]
    faces = faces_of(image, square(180, 150, 150))
    crops = crop_faces(image, faces) + 0.15
    hard, covered = paste(image, faces, crops, disc(256))
    soft, _ = paste(image, faces, crops, disc(256), PasteSettings(blend=blend))
    assert seam(hard, covered) > 0.1 and seam(soft, covered) < 0.012


def test_poisson_undoes_a_constant_change(portraits):
    """The gradients are the photograph's own, so its colours come back everywhere."""
    image, faces = portraits[0]
    image = image * 0.7 + 0.1
    crops = crop_faces(image, faces) + torch.tensor([0.1, -0.05, 0.07])
    out, covered = paste(image, faces, crops, disc(256), PasteSettings(blend="poisson"))
    assert psnr(out, image, covered > 0) > 38
    plain, _ = paste(image, faces, crops, disc(256))
    assert psnr(plain, image, covered > 0) < 24


@pytest.mark.parametrize("cut", [False, True])
def test_the_membrane_solves_the_poisson_equation(cut):
    """Against a sparse direct solution, with a soft outline, a thin arm, and (cut) an edge of the frame and a free stretch."""
    height, width = 151, 122
    y, x = np.mgrid[:height, :width]
    domain = ((x - 60) / 50) ** 2 + ((y - (10 if cut else 75)) / 66) ** 2 < 1
    domain |= (abs(x - 60) < 4) & (y > 60) & (y < 146)
    near = np.pad(domain, 1)
    border = (near[2:, 1:-1] | near[:-2, 1:-1] | near[1:-1, 2:] | near[1:-1, :-2]) & ~domain
    if cut:
        border[:, :40] = False
    values = np.where(border, 0.3 * np.sin(x / 20) * np.cos(y / 9) + 0.1 * np.random.default_rng(0).standard_normal(x.shape), 0)
    number = np.cumsum(domain.ravel()).reshape(domain.shape) - 1
    matrix, right = sparse.lil_matrix((domain.sum(),) * 2), np.zeros(domain.sum())
    for row, column in np.argwhere(domain):
        i = number[row, column]
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= r < height and 0 <= c < width and (domain[r, c] or border[r, c]):
                matrix[i, i] += 1
                if domain[r, c]:
                    matrix[i, number[r, c]] = -1
                else:
                    right[i] += values[r, c]
    exact = spsolve(matrix.tocsc(), right)
    found = blends.solve_membrane(torch.from_numpy(values.astype(np.float32))[None], torch.from_numpy(border), torch.from_numpy(domain))
    assert np.abs(found[0].numpy()[domain] - exact).max() < 0.25 / 255 and float(found[0][torch.from_numpy(~domain)].abs().max()) == 0


def test_poisson_does_not_leak_through_a_border_on_hair():
    """Half the mask's border lies on black; the face keeps its own brightness instead of darkening towards it."""
    image = torch.full((1, 240, 240, 3), 0.6)
    image[:, :78] = 0.02
    image += 0.01 * torch.rand(1, 240, 240, 3, generator=torch.Generator().manual_seed(0))
    faces = faces_of(image, square(200, 120, 120))
    crops = torch.full((1, 200, 200, 3), 0.65)
    out, covered = paste(image, faces, crops, disc(200, 0.4), PasteSettings(blend="poisson"))
    below = out[0, 100:190][covered[0, 100:190] == 1]
    assert float((below - 0.605).abs().max()) < 0.03


def test_multi_band_keeps_detail_and_mean():
    """Inside, away from the border, the crop's fine detail survives unchanged."""
    generator = torch.Generator().manual_seed(3)
    base, pasted = torch.rand(128, 128, 3, generator=generator) * 0.2 + 0.3, torch.rand(128, 128, 3, generator=generator) * 0.2 + 0.5
    mask = disc(128, 0.45)[0][..., None]
    mixed, weight = blends.multi_band(base, pasted, mask)
    assert float(weight[mask == 0].abs().max()) == 0 and float(weight[64, 64]) == 1
    middle = (slice(56, 72), slice(56, 72))
    detail = [planes[middle] - planes[middle].mean((0, 1)) for planes in (mixed, pasted)]
    assert float((detail[0] - detail[1]).abs().max()) < 0.02
    same, _ = blends.multi_band(base, base, mask)
    assert float((same - base).abs().max()) < 1e-6


@pytest.mark.parametrize("color", COLORS[1:])
def test_colour_match_inside_paste(portraits, color):
    image, faces = portraits[1]
    crops = (crop_faces(image, faces) * torch.tensor([0.8, 0.9, 1.1]) + 0.05).clamp(0, 1)
    plain, covered = paste(image, faces, crops, disc(256, 0.3))
    matched, _ = paste(image, faces, crops, disc(256, 0.3), PasteSettings(color=color))
    inside = covered > 0
    assert float((matched - image)[inside].abs().mean()) < 0.5 * float((plain - image)[inside].abs().mean())

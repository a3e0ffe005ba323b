"""DiffSwap in this process, from a checkpoint to the pasted photograph; its networks' numbers are held by the golden vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffswap_as_published import blend_by_bands, cut, paste_as_published
from faceloom.models.crops.crop import crop_faces, crop_matrices
from faceloom.models.crops.squares import align_faces
from faceloom.models.crops.templates import TEMPLATES
from faceloom.models.detect import detect_faces
from faceloom.models.diffusion.ddim import DdimStep, ddim_schedule
from faceloom.models.diffusion.noise import noise_source
from faceloom.models.errors import FaceLoomError
from faceloom.models.face3d.mask3d import landmark_mask
from faceloom.models.identity import make_identity
from faceloom.models.networks.diffswap import codes_to_latents, nearest_codes, organ_means, unet_form, unet_weights, vq_form
from faceloom.models.parse.landmarks import points68_of
from faceloom.models.pixels.affine import invert, transform
from faceloom.models.pixels.opencv_like import fill_hull
from faceloom.models.systems.diffswap import (
    ALPHAS,
    SHAPES,
    SIZE,
    ConditioningSettings,
    DiffSwapEngine,
    Prepared,
    Settings,
    load_diffswap,
    masked_ddim,
    prepare,
    source_crops,
    source_features,
    starts_from_noise,
    transferred_points,
)
from faceloom.models.systems.diffswap_picture import (
    RECOGNIZER_SIZE,
    identity_view,
    latent_mask,
    organ_masks,
    preview_colours,
)
from quad_as_published import cut_squares
from swap_photo import swap_photo

FEW = Settings(steps=2)
STEP = ddim_schedule(50, ALPHAS)[20]


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    pytest.importorskip("diffusers")
    from diffswap_files import save_diffswap

    return load_diffswap(save_diffswap(tmp_path_factory.mktemp("diffswap") / "diffswap.pth"))


def aligned_crops(photo, faces):
    aligned = align_faces(faces, "FFHQ quad", SIZE)
    return crop_faces(photo, aligned), aligned


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestSampling:
    def test_a_denoiser_that_knows_finds_both_pictures(self):
        """Inside the mask the denoiser's picture, around it the target; a trace of noise is left at timestep 0."""
        steps, replaced = ddim_schedule(8, ALPHAS), torch.zeros(1, 1, 8, 8)
        replaced[..., 2:6, 3:7] = 1
        wanted, target = normal(1, 3, 8, 8, seed=1), normal(1, 3, 8, 8, seed=2)

        def denoise(x, step):
            return (x - step.alpha**.5 * (wanted * replaced + target * (1 - replaced))) / (1 - step.alpha) ** .5

        draw = noise_source([3], (3, 8, 8))
        x = masked_ddim(denoise, draw(), target, replaced, steps, draw, 0)
        trace = (1 - ALPHAS[0]) ** .5
        assert trace < .04
        off = (x - ALPHAS[0] ** .5 * (wanted * replaced + target * (1 - replaced))).abs()
        assert float(off.max()) < 5 * trace

    def test_guidance_drifts_to_the_target_by_its_share(self):
        """One step changes by sqrt(1 - after) · guidance · sqrt(alpha) · (picture - target), everywhere."""
        x, target, noise = normal(1, 3, 4, 4), normal(1, 3, 4, 4, seed=1), normal(1, 3, 4, 4, seed=2)
        plain, bent = (masked_ddim(lambda x, step: noise, x, target, torch.ones(1, 1, 4, 4), (STEP,), lambda: noise, guidance)
                       for guidance in (0, .3))
        picture = STEP.clean(x, noise)
        torch.testing.assert_close(plain - bent, (1 - STEP.next_alpha) ** .5 * .3 * STEP.alpha**.5 * (picture - target))

    def test_the_surroundings_get_new_noise_at_every_step(self):
        seen, target = [], normal(1, 3, 4, 4)
        draw = noise_source([0], (3, 4, 4))
        masked_ddim(lambda x, step: torch.zeros_like(x), draw(), target, torch.zeros(1, 1, 4, 4), ddim_schedule(4, ALPHAS), draw, 0,
                    lambda number, picture, x: seen.append((number, x)))
        noise = [(x - step.alpha**.5 * target) / (1 - step.alpha) ** .5 for step, (_, x) in zip(ddim_schedule(4, ALPHAS), seen)]
        assert [number for number, _ in seen] == [0, 1, 2, 3]
        again = noise_source([0], (3, 4, 4))
        again()
        for drawn in noise:
            torch.testing.assert_close(drawn, again(), atol=1e-4, rtol=1e-4)

    def test_every_row_has_its_own_noise(self):
        two, one = noise_source([4, 5], (3, 8, 8)), noise_source([5], (3, 8, 8))
        assert all(torch.equal(two()[1:], one()) for _ in range(3))
        torch.testing.assert_close(noise_source([5], (3, 8, 8))()[0], normal(1, 3, 8, 8, seed=5)[0])

    @pytest.mark.parametrize("count", [1, 3, 30, 50, 200, 1000])
    def test_a_whole_schedule_begins_with_noise_and_a_part_does_not(self, count):
        steps = ddim_schedule(count, ALPHAS)
        assert starts_from_noise(steps)
        if len(steps) > 2:
            assert not starts_from_noise(steps[1:])
        assert steps[-1] == DdimStep(1, ALPHAS[1], ALPHAS[0])


class TestPictures:
    def test_the_identity_view_puts_the_points_on_arcfaces(self):
        """Where affine_grid reads for ArcFace's points, the crop has its own."""
        keypoints = TEMPLATES["ffhq_512"] * SIZE
        turned = (keypoints - 128) @ np.array([[.9, .3], [-.3, .9]]) + 120
        theta = identity_view(turned, SIZE)
        points = TEMPLATES["arcface_112_v2"] * RECOGNIZER_SIZE
        read = (transform(points * 2 / (RECOGNIZER_SIZE - 1) - 1, theta) + 1) / 2 * (SIZE - 1)
        assert np.linalg.norm(read - turned, axis=1).max() < 4

    def test_organs_lie_where_they_are(self, collins):
        faces = align_faces(detect_faces(collins), "FFHQ quad", SIZE)
        matrix = crop_matrices(faces)[0]
        organs = organ_masks(transform(faces[0].points68, matrix), SIZE)
        keypoints = transform(faces[0].keypoints, matrix)
        for mask, point in zip(organs, [keypoints[0], keypoints[1], keypoints[2], keypoints[3:].mean(0)]):
            assert np.linalg.norm(np.argwhere(mask).mean(0)[::-1] - point) < 16
        assert not (organs.sum(0) > 1).any()

    def test_the_latent_mask_is_the_first_pixel_of_four(self):
        masks = torch.zeros(1, 16, 16)
        masks[0, 4, 8] = 1
        masks[0, 5:8, 1:4] = 1
        assert latent_mask(masks, 4)[0, 0].nonzero().tolist() == [[1, 2]]

    def test_joining_keeps_equal_pictures_and_flat_colours(self):
        picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        mask = torch.zeros(1, 64, 64)
        mask[:, 16:48, 16:48] = 1
        torch.testing.assert_close(blend_by_bands(picture, picture, mask), picture, atol=1e-6, rtol=0)
        torch.testing.assert_close(blend_by_bands(picture, 1 - picture, torch.ones_like(mask)), picture, atol=1e-6, rtol=0)
        mask = (torch.arange(64) < 32).float().expand(1, 64, 64)
        row = blend_by_bands(torch.ones(1, 3, 64, 64), torch.zeros(1, 3, 64, 64), mask)[0, 0, 32]
        assert float(row[4]) > .75 and float(row[60]) < .1
        assert int(((row > .1) & (row < .9)).sum()) > 8  # the seam is spread

    def test_preview_colours_are_those_of_a_linear_decoder(self):
        factors, offsets = torch.tensor([[.3, .1, -.2], [.1, .2, 0], [0, -.1, .4]]), torch.tensor([.1, -.1, 0])
        book = normal(50, 3).clamp(-1, 1)

        def decode(latents):
            colours = latents.movedim(1, -1) @ factors + offsets
            return ((colours + 1) / 2).repeat_interleave(4, 1).repeat_interleave(4, 2)

        found = preview_colours(decode, book)
        np.testing.assert_allclose(found[0], factors, atol=1e-5)
        np.testing.assert_allclose(found[1], offsets, atol=1e-5)


class TestNetworks:
    def test_the_running_average_is_what_is_loaded(self):
        from diffswap_files import diffswap_weights

        averaged, last = unet_weights(diffswap_weights()), unet_weights(diffswap_weights(averaged=False))
        assert averaged.keys() == last.keys() and all(torch.equal(averaged[key], last[key]) for key in last)
        weights = diffswap_weights()
        assert not torch.equal(weights["model.diffusion_model.out.2.weight"], averaged["out.2.weight"])

    def test_shapes_are_read_from_the_weights(self):
        from diffswap_files import SMALL_UNET, SMALL_VQ, diffswap_weights, vq_weights
        from faceloom.models.networks.ldm import UNetForm
        from ldm_files import unet_shapes

        assert unet_form(unet_weights(diffswap_weights())) == SMALL_UNET
        assert vq_form({key.removeprefix("first_stage_model."): value for key, value in vq_weights().items()}) == SMALL_VQ
        published = UNetForm(3, 3, 224, (1, 2, 3, 4), (False, True, True, True), (7, 14, 21, 28), 256, 2)
        with torch.device("meta"):
            assert unet_form({key: torch.empty(shape) for key, shape in unet_shapes(published).items()}) == published

    def test_organs_are_means_over_their_masks(self):
        latents, organs = normal(1, 3, 4, 4), torch.zeros(1, 4, 16, 16)
        organs[0, 0, 0, 0] = organs[0, 1, 0, 4] = 1  # one latent cell for each eye
        organs[0, 2, 8:, :] = 1
        means = organ_means(latents, organs)
        torch.testing.assert_close(means[0, 0], latents[0, :, 0, :2].mean(-1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(means[0, 1], latents[0, :, 2:].mean((1, 2)), atol=1e-5, rtol=1e-5)
        assert float(means[0, 2].abs().max()) == 0

    def test_codes_are_the_nearest(self):
        book, latents = normal(40, 3), normal(2, 3, 5, 4, seed=1)
        codes = nearest_codes(latents, book)
        wanted = torch.cdist(latents.movedim(1, -1).reshape(-1, 3), book).argmin(1).reshape(2, 5, 4)
        assert torch.equal(codes, wanted) and torch.equal(codes_to_latents(codes, book)[1, :, 2, 3], book[wanted[1, 2, 3]])

    def test_decoding_goes_through_the_codes(self, system):
        book = system.codec.net.vae.quantize.embedding.weight
        codes = torch.arange(64).reshape(1, 8, 8)
        exact = codes_to_latents(codes, book)
        distance = torch.cdist(book, book).fill_diagonal_(9).min()
        near = exact + normal(1, 3, 8, 8).sign() * float(distance) * .2
        assert torch.equal(system.decode(exact), system.decode(near)) and not torch.equal(exact, near)


class TestPrepare:
    def test_what_the_denoiser_is_told(self, system, collins, source):
        crops, faces = aligned_crops(collins, detect_faces(collins))
        told = prepare(system.conditioner, system.encode, crops, faces, source)
        points = transform(faces[0].points68, crop_matrices(faces)[0])
        assert torch.equal(told.targets, crops) and torch.equal(told.latents, system.encode(crops))
        assert np.array_equal(told.swapped[0].bool(), fill_hull(points, SIZE)) and told.replaced.unique().tolist() == [0, 1]
        net = system.conditioner.model.net
        landmarks = net.landmark_encoder(torch.from_numpy(points / SIZE).float().flatten()[None])
        torch.testing.assert_close(told.tokens[:, 0], landmarks)
        portrait, sources = source_crops(source)
        matrix = crop_matrices(sources, SIZE)[0]
        view = torch.from_numpy(identity_view(transform(sources[0].keypoints, matrix), SIZE)).float()[None]
        who = net.id_fc(net.identity(portrait.movedim(-1, 1) * 2 - 1, view))
        torch.testing.assert_close(told.tokens[:, 1], who, atol=1e-5, rtol=1e-4)

    def test_organs_come_from_the_source_or_as_released_from_the_target(self, system, group, source):
        crops, faces = aligned_crops(*group)
        of_source, released = (prepare(system.conditioner, system.encode, crops, faces, source, ConditioningSettings(which)).tokens
                               for which in ("source", "released"))
        torch.testing.assert_close(of_source[:, :2], released[:, :2])
        torch.testing.assert_close(of_source[0, 2:], of_source[1, 2:])
        assert not torch.allclose(released[0, 2:], released[1, 2:], atol=1e-3)
        _, sources = source_crops(source)
        masks = organ_masks(transform(points68_of(sources[0]), crop_matrices(sources, SIZE)[0]), SIZE)
        means = organ_means(system.encode(crops[:1]), torch.from_numpy(masks)[None])
        net = system.conditioner.model.net
        torch.testing.assert_close(net(torch.zeros(1, 68, 2), torch.zeros(1, 512), means)[:, 2:], released[:1, 2:], atol=1e-5, rtol=1e-4)

    def test_several_photos_count_alike(self, system, collins, hopper):
        parts = [make_identity(photo, detect_faces(photo))[0] for photo in (hopper, collins)]
        size = min(part.crops.shape[1] for part in parts)
        both = replace(parts[0], crops=np.concatenate([part.crops[:, :size, :size] for part in parts]),
                       faces=tuple(part.faces[0] for part in parts), photos=2)
        single = [replace(both, crops=both.crops[i : i + 1], faces=both.faces[i : i + 1], photos=1) for i in range(2)]
        features = [source_features(system.conditioner, *source_crops(who), None, system.encode) for who in (*single, both)]
        for first, second, mean in zip(*features):
            torch.testing.assert_close((first + second) / 2, mean, atol=1e-5, rtol=1e-4)

    def test_the_three_dimensional_shapes(self, system, collins, source):
        crops, faces = aligned_crops(collins, detect_faces(collins))
        flat, inner, union = (prepare(system.conditioner, system.encode, crops, faces, source, ConditioningSettings(shape=shape))
                              for shape in SHAPES)
        assert torch.equal(union.swapped, landmark_mask(faces, SIZE, "union", source)[0]) and (union.swapped >= inner.swapped).all()
        assert float(inner.swapped.sum()) > 1.2 * float(flat.swapped.sum())  # with forehead
        assert torch.equal(inner.tokens, union.tokens) and not torch.allclose(inner.tokens[:, 0], flat.tokens[:, 0], atol=1e-3)
        torch.testing.assert_close(inner.tokens[:, 1:], flat.tokens[:, 1:])
        moved = transferred_points(faces[0], source) - faces[0].points68
        eyes = faces[0].eye_distance
        assert .01 * eyes < np.abs(moved).mean() < .2 * eyes  # another face in the same place

    def test_a_mask_of_ones_own(self, system, collins, source):
        crops, faces = aligned_crops(collins, detect_faces(collins))
        mask = torch.zeros(1, 512, 512)
        mask[:, 100:300, 100:300] = 1
        told = prepare(system.conditioner, system.encode, crops, faces, source, mask=mask)
        assert float(told.swapped[0, 51:149, 51:149].min()) == 1 and float(told.swapped.mean()) == pytest.approx((200 / 512) ** 2)

    def test_larger_crops_are_brought_to_size(self, system, collins, source):
        faces = align_faces(detect_faces(collins), "FFHQ quad", 512)
        told = prepare(system.conditioner, system.encode, crop_faces(collins, faces), faces, source)
        small = prepare(system.conditioner, system.encode, crop_faces(collins, faces, SIZE), faces, source)
        assert torch.equal(told.swapped, small.swapped) and float((told.targets - small.targets).abs().mean()) < .01

    def test_what_it_cannot_work_with(self, system, collins, source):
        crops, faces = aligned_crops(collins, detect_faces(collins))
        with pytest.raises(FaceLoomError, match="looks at a photo of the source"):
            prepare(system.conditioner, system.encode, crops, faces, replace(source, crops=source.crops[:0], faces=()))
        with pytest.raises(FaceLoomError, match="organ_source must be one of"):
            prepare(system.conditioner, system.encode, crops, faces, source, ConditioningSettings("target"))


def swap_by_engine(system, photo, faces, source, settings, conditioning=ConditioningSettings(), **options):  # noqa: B008
    return swap_photo(DiffSwapEngine(system, settings, conditioning), photo, faces, source, "multi-band", **options)


@pytest.mark.parametrize("shape", [SHAPES[0], *(pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES[1:])])
def test_from_the_photograph_to_the_pasted_result(system, collins, source, shape):
    faces = detect_faces(collins)
    conditioning = ConditioningSettings(shape=shape)
    result = swap_by_engine(system, collins, faces, source, FEW, conditioning)
    assert torch.equal(result, swap_by_engine(system, collins, faces, source, FEW, conditioning))
    assert not torch.equal(result, swap_by_engine(system, collins, faces, source, replace(FEW, seed=1), conditioning))
    aligned = align_faces(faces, "FFHQ quad", SIZE)
    mask = prepare(system.conditioner, system.encode, crop_faces(collins, aligned), aligned, source, conditioning).swapped[0]
    ys, xs = np.nonzero((result != collins).any(-1)[0].numpy())
    at = np.rint(transform(np.stack([xs, ys], 1), crop_matrices(aligned)[0])).astype(int).clip(0, SIZE - 1)
    reach = torch.nn.functional.max_pool2d(mask[None], 5, 1, 2)[0]
    assert result.shape == collins.shape and len(xs) > .015 * 512 * 512
    assert (reach[at[:, 1], at[:, 0]] > 0).all()  # nothing changed but the masked face


def test_as_published_the_whole_square_is_drawn(system, collins, source):
    faces = detect_faces(collins)
    told = prepare(system.conditioner, system.encode, cut_squares(collins, faces, SIZE, cut), align_faces(faces, "FFHQ quad", SIZE), source)
    result = paste_as_published(collins, faces, told, system.paint(told, FEW))
    changed = (result != collins).any(-1)[0].numpy()
    ys, xs = np.nonzero(changed)
    to_crop = crop_matrices(align_faces(faces, "FFHQ quad"), SIZE)[0]
    at = transform(np.stack([xs, ys], 1), to_crop)
    assert at.min() > -3 and at.max() < SIZE + 2
    square = abs(np.linalg.det(invert(to_crop)[:, :2])) * SIZE**2
    assert .5 * square < changed.sum() < 1.02 * square
    assert torch.equal((result[0][changed] * 255).round() / 255, result[0][changed])  # 8 bits


def test_the_published_square_goes_back_where_it_was_cut(group):
    """Cut, joined with itself and drawn over again, both squares lie within a blur of the photograph, and nothing else moves."""
    photo, faces = group
    crops = cut_squares(photo, faces, SIZE, cut)
    told = Prepared(torch.zeros(0), crops, torch.zeros(0), torch.ones(2, SIZE, SIZE))
    off = (paste_as_published(photo, faces, told, crops) - photo).abs()
    assert float((off > 0).float().mean()) > .1 and float(off.mean()) < .01 and float((off > .1).float().mean()) < .01


@pytest.mark.slow
def test_a_batch_is_its_faces_one_by_one(system, group, source):
    photo, faces = group
    crops, aligned = aligned_crops(photo, faces)
    told = prepare(system.conditioner, system.encode, crops, aligned, source)
    both = system.paint(told, FEW)
    for number in range(2):
        rows = slice(number, number + 1)
        one = replace(told, **{name: getattr(told, name)[rows] for name in ("tokens", "targets", "latents", "swapped")})
        assert float((system.paint(one, replace(FEW, seed=number)) - both[rows]).abs().mean()) < 1e-3
    assert float((both[0] - both[1]).abs().mean()) > .01


@pytest.mark.slow
def test_progress_counts_every_step_and_may_stop(system, group, source, reports):
    seen = reports(lambda progress: swap_by_engine(system, *group, source, FEW, progress=progress))
    assert seen == [(0, 4), (2, 4), (4, 4)]  # two faces together, two steps


def test_no_face_changes_nothing(system, collins, source):
    faces = detect_faces(collins).take([])
    assert torch.equal(swap_by_engine(system, collins, faces, source, FEW), collins)
    told = prepare(system.conditioner, system.encode, torch.zeros(1, 64, 64, 3), faces, source)
    assert float(told.swapped.max()) == 0 and told.tokens.shape == (1, 5, 64) and told.latents.shape == (1, 3, 64, 64)


@pytest.mark.slow
def test_files_that_are_not_whole_say_so(tmp_path):
    pytest.importorskip("diffusers")
    from diffswap_files import diffswap_weights, save_diffswap
    from faceloom.models.networks.iresnet import IResNet

    path = save_diffswap(tmp_path / "diffswap.pth", face_model=False)
    with pytest.raises(FaceLoomError, match=r"needs glint360k_r100\.pth: get it from https://cloud\.tsinghua.* put it into"):
        load_diffswap(path)
    torch.manual_seed(0)
    torch.save(IResNet(18).state_dict(), tmp_path / "glint360k_r100.pth")
    load_diffswap(path)
    weights = diffswap_weights()
    for gone, words in (("first_stage_model.decoder.conv_out.bias", "lacks"), ("cond_stage_model.organ_norm.weight", "lacks"),
                        ("model.diffusion_model.out.2.bias", "lacks")):
        torch.save({key: value for key, value in weights.items() if key != gone}, path)
        with pytest.raises(FaceLoomError, match=words):
            load_diffswap(path)
    torch.save({"anything.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(FaceLoomError, match=r"diffswap\.pth .*another model"):
        load_diffswap(path)

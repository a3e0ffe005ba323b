"""The object that stands in for insightface, read by doubles of the nodes it goes to (what each reads was looked up in its source)."""

import copy

import numpy as np
import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.face3d.control import keypoint_pictures
from faceloom.models.faces import Identity
from faceloom.models.identity import make_identity
from faceloom.models.interop.identity_for_adapters import adapter_analysis, adapter_images
from faceloom.models.options.detect import DetectSettings


def as_cubiq(images: torch.Tensor) -> np.ndarray:
    """BGR bytes, cut and not rounded, as ComfyUI_IPAdapter_plus, ComfyUI_InstantID and the PuLID packs make them."""
    return images.mul(255).clamp(0, 255).byte().numpy()[..., [2, 1, 0]]


def instantid(analysis, image: torch.Tensor, keypoints: bool = False):
    """ComfyUI_InstantID, extractFeatures: items of the largest face; None where no size of detection finds one."""
    out = []
    analysis.det_model.input_size = (640, 640)
    for picture in as_cubiq(image):
        for size in range(640, 128, -64):
            analysis.det_model.input_size = (size, size)
            faces = analysis.get(picture)
            if faces:
                face = sorted(faces, key=lambda x: (x["bbox"][2] - x["bbox"][0]) * (x["bbox"][3] - x["bbox"][1]))[-1]
                out.append(torch.from_numpy(np.array(face["kps"])) if keypoints else torch.from_numpy(face["embedding"]).unsqueeze(0))
                break
    return torch.stack(out) if out else None


def faceid(analysis, image: torch.Tensor):
    """ComfyUI_IPAdapter_plus: attributes of the first face, unit or not, and its keypoints for norm_crop."""
    if not analysis:
        raise AssertionError("insightface model is required for FaceID models")
    units, raws, points = [], [], []
    for picture in as_cubiq(image):
        analysis.det_model.input_size = (640, 640)
        face = analysis.get(picture)
        assert face
        units.append(torch.from_numpy(face[0].normed_embedding).unsqueeze(0))
        raws.append(torch.from_numpy(face[0].embedding).unsqueeze(0))
        points.append(face[0].kps)
    return torch.stack(units), torch.stack(raws), points


def pulid(analysis, image: torch.Tensor):
    """PuLID_ComfyUI and both Flux packs: attributes of the largest face; lldacing's also sorts by bbox and draws int boxes and points."""
    out = []
    for picture in as_cubiq(image):
        analysis.det_model.input_size = (640, 640)
        faces = analysis.get(picture)
        face = sorted(faces, key=lambda x: (x.bbox[2] - x.bbox[0]) * (x.bbox[3] - x.bbox[1]))[-1]
        assert hasattr(faces[0], "bbox") and face.bbox.astype(np.int32).shape == (4,) and face.kps.astype(np.int32).shape == (5, 2)
        out.append(torch.from_numpy(face.embedding).unsqueeze(0))
    return out


@pytest.fixture(scope="module")
def identity(collins, hopper):
    """Two different photos, so that the identity is not one of them; vectors of two spaces."""
    made = [make_identity(image, detect_faces(image, settings=DetectSettings(keep="first")))[0] for image in (collins, hopper[:, :512])]
    size = 256
    from faceloom.models.crops.transformed import transform_face
    from faceloom.models.pixels.resize import resize_area_or_lanczos

    crops = [resize_area_or_lanczos(torch.from_numpy(np.array(one.crops)), size).numpy() for one in made]
    scales = [size / one.crops.shape[1] for one in made]
    matrices = [np.array([[s, 0, s / 2 - 0.5], [0, s, s / 2 - 0.5]]) for s in scales]
    faces = [transform_face(one.faces[0], matrix) for one, matrix in zip(made, matrices, strict=True)]
    random = np.random.default_rng(3)
    vectors = {space: random.normal(size=512) for space in ("w600k", "glint360k")}
    units = {space: (vector / np.linalg.norm(vector)).astype(np.float32) for space, vector in vectors.items()}
    return Identity(units, np.concatenate(crops), tuple(faces), made[0].framing, photos=5, norms={"w600k": 23.0})


@pytest.mark.parametrize("count", [1, 2])
def test_instantid_gets_the_averaged_identity(identity, count):
    pictures, analysis = adapter_analysis(identity, "InstantID", count=count)
    embedding = instantid(analysis, pictures)
    assert embedding.shape == (count, 1, 512) and embedding.dtype == torch.float32
    assert np.allclose(embedding[:, 0] / 20, identity.embeddings["glint360k"], atol=1e-6)


def test_faceid_gets_unit_and_raw_vectors(identity):
    units, raws, points = faceid(adapter_analysis(identity, "IP-Adapter FaceID")[1], adapter_images(identity, count=2)[0])
    assert units.shape == (2, 1, 512) and units.dtype == torch.float32
    assert np.allclose(units[:, 0], identity.embeddings["w600k"], atol=1e-6)
    assert np.allclose(raws[:, 0], 23 * identity.embeddings["w600k"], atol=1e-5)
    assert all(p.shape == (5, 2) and p.dtype == np.float32 for p in points)


def test_pulid_gets_antelopes(identity):
    pictures, analysis = adapter_analysis(identity, "PuLID", count=2, size=640)
    assert all(np.allclose(e[0] / 20, identity.embeddings["glint360k"], atol=1e-6) for e in pulid(analysis, pictures))


@pytest.mark.parametrize("size, padding, count", [(1024, 0.15, 2), (640, 0.5, 2), (512, 0.0, 1)])
def test_keypoints_are_where_the_picture_has_them(identity, size, padding, count):
    """Measured against a detection on the picture itself."""
    pictures, analysis = adapter_analysis(identity, "InstantID", size=size, padding=padding, count=count)
    assert pictures.shape == (count, size, size, 3)
    border = round(size * padding / (1 + 2 * padding))
    assert not pictures[:, :max(border - 1, 0)].any() and bool(pictures[:, border + 2].any())
    for known, picture in zip(instantid(analysis, pictures, keypoints=True), pictures, strict=True):
        found = detect_faces(picture[None], settings=DetectSettings(keep="first"))[0]
        assert np.abs(known.numpy() - found.keypoints).max() < 0.12 * found.eye_distance


def test_the_norm_crop_of_faceid_has_the_eyes_at_its_template(identity):
    align = pytest.importorskip("insightface.utils.face_align")
    pictures, analysis = adapter_analysis(identity, "IP-Adapter FaceID", count=2)
    for picture, points in zip(pictures, faceid(analysis, pictures)[2], strict=True):
        crop = align.norm_crop(as_cubiq(picture), landmark=points, image_size=224)
        face = detect_faces(torch.from_numpy(crop[..., ::-1].copy())[None] / 255, settings=DetectSettings(keep="first"))[0]
        assert np.abs(face.keypoints[:2] - 2 * align.arcface_dst[:2]).max() < 6


@pytest.mark.parametrize("change", ["half size", "fp16", "enlarged"])
def test_a_picture_is_known_again(identity, change):
    from faceloom.models.pixels.resize import resize_area_or_lanczos

    class Blind:
        name = "blind"

        def detect(self, images, threshold, progress=None):
            raise AssertionError("the face is known")

    pictures, analysis = adapter_analysis(identity, "InstantID", count=2, detector=Blind())
    whole = instantid(analysis, pictures, keypoints=True)
    changed = {"half size": resize_area_or_lanczos(pictures, 512), "fp16": pictures.half().float(),
               "enlarged": resize_area_or_lanczos(pictures, 1280)}[change]
    scale = changed.shape[1] / 1024
    assert np.allclose(instantid(analysis, changed, keypoints=True), (whole + 0.5) * scale - 0.5, atol=1e-3)


class TestOtherPictures:
    def test_anybody_found_is_this_identity_where_that_photo_has_them(self, identity, hopper):
        _, analysis = adapter_analysis(identity, "InstantID")
        points = instantid(analysis, hopper, keypoints=True)[0]
        first = detect_faces(hopper, settings=DetectSettings(keep="first"))[0]
        assert np.allclose(points, first.keypoints, atol=1.5)  # the photo came as cut bytes
        assert np.allclose(instantid(analysis, hopper)[0, 0] / 20, identity.embeddings["glint360k"], atol=1e-6)

    @pytest.mark.slow
    def test_a_drawing_of_keypoints_has_no_face(self, identity, hopper):
        """So Apply InstantID takes it as it is."""
        _, analysis = adapter_analysis(identity, "InstantID")
        faces = detect_faces(hopper, settings=DetectSettings(keep="first"))
        for drawing in (keypoint_pictures(faces), keypoint_pictures(faces, 1024), keypoint_pictures(faces, 0, "image")):
            assert instantid(analysis, drawing, keypoints=True) is None

    def test_detects_once_for_all_the_sizes_that_callers_try(self, identity):
        class Counting:
            name, calls = "counting", 0

            def detect(self, images, threshold, progress=None):
                Counting.calls += 1
                return [[] for _ in images]

        _, analysis = adapter_analysis(identity, "InstantID", detector=Counting())
        assert instantid(analysis, torch.zeros(2, 96, 64, 3) + torch.tensor([0.1, 0.9])[:, None, None, None]) is None
        assert Counting.calls == 2

    def test_largest_first_and_no_more_than_asked(self, identity, collins, hopper):
        picture = torch.zeros(1, 600, 1024, 3)
        picture[:, :512, :512] = collins
        picture[:, 100:400, 600:856] = torch.nn.functional.interpolate(hopper.movedim(-1, 1), (300, 256), mode="area").movedim(1, -1)
        _, analysis = adapter_analysis(identity, "InstantID")
        found = analysis.get(as_cubiq(picture)[0])
        areas = [(face.bbox[2] - face.bbox[0]) * (face.bbox[3] - face.bbox[1]) for face in found]
        assert len(found) == 2 and areas[0] > areas[1]
        assert len(analysis.get(as_cubiq(picture)[0], max_num=1)) == 1


class TestFace:
    @pytest.fixture
    def face(self, identity):
        pictures, analysis = adapter_analysis(identity, "InstantID")
        return analysis.get(as_cubiq(pictures)[0])[0]

    def test_what_it_lacks_is_none_as_insightface_has_it(self, face):
        assert face.gender is None and face.landmark_3d_68 is None and face.det_score > 0
        assert face.embedding_norm == pytest.approx(20, abs=1e-4)

    def test_it_can_be_copied(self, face):
        assert np.array_equal(copy.deepcopy(face).kps, face.kps)

    def test_callers_may_write_into_it(self, identity):
        pictures, analysis = adapter_analysis(identity, "InstantID")
        first = analysis.get(as_cubiq(pictures)[0])[0]
        kept = first.embedding.copy()
        first.embedding[:] = 0
        first.kps[:] = 0
        again = analysis.get(as_cubiq(pictures)[0])[0]
        assert np.array_equal(again.embedding, kept) and again.kps.any()


class TestSentences:
    @pytest.mark.parametrize("adapter, space, file", [
        ("IP-Adapter FaceID", "w600k", "w600k_r50.onnx"), ("InstantID", "glint360k", "glintr100.onnx"),
        ("PuLID", "glint360k", "glintr100.onnx"),
    ])
    def test_an_embedding_of_another_network(self, identity, adapter, space, file):
        other = Identity({"dlib128": np.ones(128, np.float32)}, identity.crops, identity.faces)
        with pytest.raises(FaceLoomError, match=f"{adapter} needs an identity with an embedding of {space}, and .* dlib128; .* {file}"):
            adapter_analysis(other, adapter)

    @pytest.mark.parametrize("vectors", [{}, {"dlib128": np.ones(128, np.float32)}])
    def test_a_recognizer_looks_at_the_pictures(self, identity, vectors):
        """The mean over both of them, as long as they are on average."""

        class Antelope:
            space = "glint360k"

            def embed_raw(self, images, faces, progress=None):
                assert len(images) == 2 and [face.frame for face in faces] == [0, 1]
                return np.diag([10.0, 30.0]).astype(np.float32)

        other = Identity(vectors, identity.crops, identity.faces, identity.framing)
        pictures, analysis = adapter_analysis(other, "InstantID", recognizer=Antelope())
        assert np.allclose(instantid(analysis, pictures)[0, 0], 20 * np.array([0.5, 0.5]) ** 0.5, atol=1e-5)
        with pytest.raises(FaceLoomError, match="or connect that recognizer here"):
            adapter_analysis(other, "IP-Adapter FaceID", recognizer=Antelope())

    def test_an_identity_without_pictures(self, identity):
        bare = Identity(identity.embeddings, np.zeros((0, 1, 1, 3), np.float32), ())
        with pytest.raises(FaceLoomError, match="without a picture"):
            adapter_analysis(bare, "PuLID")

"""Identity for Adapters, Face Keypoints Image, Face Control Hints and Load Gaze Estimator in a real ComfyUI."""

from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def detected(nodes, hopper):
    """Faces and crops as Face Detect gives them."""
    with torch.inference_mode():
        return nodes["FaceDetect"].execute(hopper, 0.5, "large-small", "first", 256, 0, 1.0, "pass").args[:2]


@pytest.fixture(scope="module")
def identity(pack, detected, hopper):
    """Grace Hopper with vectors of both of insightface's packs."""
    from faceloom.models.faces import Identity
    from faceloom.models.identity import make_identity

    made = make_identity(hopper, detected[0])[0]
    random = np.random.default_rng(0)
    vectors = {space: random.normal(size=512) for space in ("w600k", "glint360k")}
    units = {space: (vector / np.linalg.norm(vector)).astype(np.float32) for space, vector in vectors.items()}
    return Identity(units, made.crops, made.faces, made.framing)


class ApplyAdapter:
    """A node of another pack: it looks at the picture with what it takes for insightface, as ComfyUI_InstantID does."""

    seen: list = []
    RETURN_TYPES = ("IMAGE",)
    FUNCTION, CATEGORY, OUTPUT_NODE = "apply", "test", True

    def apply(self, analysis, image, image_kps):
        bytes_of = lambda pictures: pictures.mul(255).clamp(0, 255).byte().cpu().numpy()[..., [2, 1, 0]]  # noqa: E731
        analysis.det_model.input_size = (640, 640)
        face = analysis.get(bytes_of(image)[0])[0]
        self.seen.append((face["embedding"], face.normed_embedding, face["kps"], analysis.get(bytes_of(image_kps)[0])))
        return (image,)


class ApplyInstantID(ApplyAdapter):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"analysis": ("FACEANALYSIS",), "image": ("IMAGE",), "image_kps": ("IMAGE",)}})


class ApplyFaceID(ApplyAdapter):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"analysis": ("INSIGHTFACE",), "image": ("IMAGE",), "image_kps": ("IMAGE",)}})


class TestIdentityForAdapters:
    @pytest.mark.parametrize("adapter, node, slot, space", [
        ("InstantID", ApplyInstantID, 2, "glint360k"), ("PuLID", ApplyInstantID, 2, "glint360k"),
        ("IP-Adapter FaceID", ApplyFaceID, 1, "w600k"),
    ])
    def test_through_comfyui_to_the_nodes_of_other_packs(self, run_graph, pictures, identity, adapter, node, slot, space):
        """ComfyUI accepts the links by their types; the other node gets the identity, and no face in the drawing of keypoints."""
        from nodes import NODE_CLASS_MAPPINGS

        class Person:
            INPUT_TYPES = classmethod(lambda cls: {"required": {}})
            RETURN_TYPES, FUNCTION, CATEGORY = ("FACE_IDENTITY",), "load", "test"

            def load(self):
                return (identity,)

        NODE_CLASS_MAPPINGS.update(SomePerson=Person, SomeAdapter=node)
        node.seen.clear()
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": "target.png"}},
            "2": {"class_type": "FaceDetect", "inputs": {"image": ["1", 0], "threshold": 0.5, "order": "large-small", "keep": "first",
                                                         "crop_size": 256, "min_size": 0, "framing": 1.0, "no_face": "pass"}},
            "3": {"class_type": "SomePerson", "inputs": {}},
            "4": {"class_type": "IdentityForAdapters", "inputs": {"identity": ["3", 0], "adapter": adapter, "count": 1, "size": 512,
                                                                  "padding": 0.15}},
            "5": {"class_type": "FaceKeypointsImage", "inputs": {"faces": ["2", 0], "where": "crop", "size": 512, "thickness": 1.0}},
            "6": {"class_type": "SomeAdapter", "inputs": {"analysis": ["4", slot], "image": ["4", 0], "image_kps": ["5", 0]}},
        }
        run_graph(graph, ["6"])
        raw, unit, points, drawn = node.seen.pop()
        assert np.allclose(unit, identity.embeddings[space], atol=1e-6) and np.allclose(raw, 20 * unit, atol=1e-5)
        assert points.shape == (5, 2) and drawn == []
        NODE_CLASS_MAPPINGS.pop("SomePerson"), NODE_CLASS_MAPPINGS.pop("SomeAdapter")

    def test_both_objects_are_one_and_pictures_are_shown(self, nodes, identity):
        answer = nodes["IdentityForAdapters"].execute(identity, "InstantID", 1, 640, 0.15)
        image, insightface, analysis = answer.args
        assert insightface is analysis and image.shape == (1, 640, 640, 3)
        assert answer.ui["images"]

    def test_the_connected_detector_looks_at_other_pictures(self, nodes, identity, hopper):
        class Corner:
            name = "corner"

            def detect(self, images, threshold, progress=None):
                from faceloom.models.faces import Face

                return [[Face(0, [0, 0, 20, 20], [[5, 5], [15, 5], [10, 10], [6, 15], [14, 15]])]]

        analysis = nodes["IdentityForAdapters"].execute(identity, "InstantID", 1, 640, 0.15, Corner()).args[2]
        assert analysis.get((hopper[0] * 255).byte().numpy())[0].kps[2].tolist() == [10, 10]

    def test_an_identity_of_the_wrong_network(self, nodes, detected, hopper):
        from faceloom.models.errors import FaceLoomError
        from faceloom.models.identity import make_identity

        made = make_identity(hopper, detected[0])[0]
        with pytest.raises(FaceLoomError, match="InstantID needs an identity with an embedding of glint360k, and this one has dlib128"):
            nodes["IdentityForAdapters"].execute(made, "InstantID", 1, 1024, 0.15)


class TestFaceKeypointsImage:
    def test_one_per_crop_or_per_frame(self, nodes, detected):
        node = nodes["FaceKeypointsImage"]
        assert node.execute(detected[0], "crop", 0, 1.0).args[0].shape == (1, 256, 256, 3)
        assert node.execute(detected[0], "crop", 1024, 1.0).args[0].shape == (1, 1024, 1024, 3)
        assert node.execute(detected[0], "image", 0, 1.0).args[0].shape == (1, 600, 512, 3)

    def test_no_face_is_one_black_picture(self, nodes, detected):
        picture = nodes["FaceKeypointsImage"].execute(detected[0].take([]), "crop", 0, 1.0).args[0]
        assert picture.shape == (1, 256, 256, 3) and not picture.any()


class TestFaceControlHints:
    @pytest.mark.parametrize("hint", [{"hint": "canny", "low": 60, "high": 150}, {"hint": "mesh"}, {"hint": "depth"}, {"hint": "normal"}])
    def test_is_the_models(self, nodes, detected, hint):
        from faceloom.models.face3d.control import control_hints

        faces, crops = detected
        given = dict(hint)
        picture = nodes["FaceControlHints"].execute(crops, given, faces).args[0]
        assert given == hint
        assert torch.equal(picture, control_hints(crops, faces, hint["hint"], low=hint.get("low", 100), high=hint.get("high", 200)))

    def test_no_face_passes(self, nodes, detected):
        picture = nodes["FaceControlHints"].execute(torch.zeros(1, 64, 64, 3), {"hint": "depth"}, detected[0].take([])).args[0]
        assert picture.shape == (1, 64, 64, 3) and not picture.any()

    def test_through_comfyui(self, run_graph, base, pictures):
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": "target.png"}},
            "2": {"class_type": "FaceDetect", "inputs": {"image": ["1", 0], "threshold": 0.5, "order": "large-small", "keep": "all",
                                                         "crop_size": 256, "min_size": 0, "framing": 1.0, "no_face": "pass"}},
            "3": {"class_type": "FaceControlHints", "inputs": {"crops": ["2", 1], "faces": ["2", 0], "hint": "canny", "hint.low": 100,
                                                               "hint.high": 200}},
            "4": {"class_type": "FaceControlHints", "inputs": {"crops": ["2", 1], "faces": ["2", 0], "hint": "mesh"}},
            "5": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
            "6": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
        }
        shown = run_graph(graph, ["5", "6"])
        assert shown["5"]["images"] and shown["6"]["images"]


class TestLoadGazeEstimator:
    def test_a_missing_file_is_a_sentence(self, nodes):
        from faceloom.models.errors import FaceLoomError

        node = nodes["LoadGazeEstimator"]
        offered = node.define_schema().inputs[0].options
        assert offered == ["GazeEstimator.pt (not downloaded)"]
        with pytest.raises(FaceLoomError, match=r"GazeEstimator\.pt .* get it from https://github.com/hxngiee/DiffFace and put it into"):
            node.execute(offered[0])
        assert "is not the name of a model file" in node.validate_inputs("../GazeEstimator.pt")

    def test_the_published_file(self, nodes, base):
        from faceloom.models.networks.eyenet import EyeNet

        node = nodes["LoadGazeEstimator"]
        folder = base / "models" / "faceloom" / "diffface"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "GazeEstimator.pt"
        with torch.inference_mode(False):
            torch.save({"nstack": 1, "nfeatures": 8, "nlandmarks": 3, "model_state_dict": EyeNet(1, 8, 3).state_dict()}, path)
        try:
            assert node.define_schema().inputs[0].options == ["GazeEstimator.pt"]
            answer = node.execute("GazeEstimator.pt")
        finally:
            path.unlink()
        estimator = answer.args[0]
        assert estimator.patcher is estimator.model.handle
        assert "CC BY-NC 4.0" in answer.ui["text"][0]
        with torch.inference_mode(False):  # what guidance differentiates
            eyes = torch.rand(1, 96, 160, requires_grad=True)
            estimator.differentiable()(eyes)[2].sum().backward()
            assert eyes.grad.abs().sum() > 0

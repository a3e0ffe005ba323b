"""An author's original file in Load Swap Model: recognised, moved by ComfyUI, and swapping."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.slow
def test_an_original_file_swaps_on_comfyuis_devices(nodes, pack, hopper, tmp_path, monkeypatch):
    import folder_paths
    from comfy.model_patcher import ModelPatcher
    from faceloom.models.detect import detect_faces
    from faceloom.models.folders import KEYS
    from faceloom.models.identity import make_identity
    from faceloom.models.networks.iresnet import IResNet
    from faceloom.models.networks.simswap import SimSwapNet

    folder = tmp_path / "models"
    place = folder / "faceloom" / "reliableswap"
    place.mkdir(parents=True)
    monkeypatch.setattr(folder_paths, "models_dir", str(folder))
    for key in KEYS:
        monkeypatch.setitem(folder_paths.folder_names_and_paths, key, ([str(folder / key)], {".onnx"}))
    torch.manual_seed(0)
    torch.save(SimSwapNet(512, 1, matrix=True).state_dict(), place / "G_tmp_sv4_off.pth")
    torch.save(IResNet(18).state_dict(), place / "backbone.pth")
    (engine,) = nodes["LoadSwapModel"].execute(file="G_tmp_sv4_off.pth", provider="auto").result[:1]
    assert isinstance(engine.model.handle, ModelPatcher) and engine.patcher is engine.model.handle
    faces = detect_faces(hopper)
    identity, _ = make_identity(hopper, faces)
    crops, masks = engine.swap(hopper, faces, identity, 256)
    assert crops.shape == (1, 256, 256, 3) and .1 < float(masks.mean()) < .7 and torch.isfinite(crops).all()

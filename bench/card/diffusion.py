"""The section about DiffusionInpaintSwap in a real ComfyUI, with the small models of ``tests/nodes/diffusion_doubles.py``."""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch

from bench.card.tools import Setup, Skip, attempt, time_task

ROOT = Path(__file__).parents[2]
SETTINGS = {"cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.6, "seed": 7, "fix_color": False}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@torch.inference_mode()
def inpaint(setup: Setup) -> Iterator[dict]:
    """Yields a row per precision of the diffusion model: that the result is finite, its difference to float32's and to the crops (0..1),
    and milliseconds a crop."""
    _import_comfyui(setup)
    from faceloom.nodes.diffusion import DiffusionInpaintSwap as Node

    doubles = _doubles()
    edge, steps = (64, 2) if setup.tiny else (512, 8)
    defaults = {item.id: item.default for item in Node.define_schema().inputs if getattr(item, "default", None) is not None}
    random = torch.Generator().manual_seed(0)
    crops = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8, generator=random), (edge, edge), mode="bilinear").movedim(1, -1)
    ys, xs = torch.meshgrid(*[torch.linspace(-1, 1, edge)] * 2, indexing="ij")
    mask = ((0.8 - torch.hypot(xs, ys)) * 4).clamp(0, 1)[None]
    texts = {"positive": doubles.conditioning(1), "negative": doubles.conditioning(2)}
    vae = doubles.vae()
    expected = None
    for name, dtype in DTYPES.items():

        def measure(dtype: torch.dtype = dtype) -> dict:
            nonlocal expected
            model = doubles.sd15()
            net = model.model.diffusion_model
            net.to(dtype)
            net.dtype = dtype

            def paint() -> torch.Tensor:
                given = {"model": model, "vae": vae, "crops": crops, "mask": mask, "size": edge, "steps": steps}
                return Node.execute(**(defaults | SETTINGS | texts | given)).args[0]

            result = paint().float().cpu()
            expected = result if expected is None and dtype == torch.float32 else expected
            times = time_task(paint, setup.device, setup.runs, warm_up=1)
            row = {"finite": bool(torch.isfinite(result).all()), "painted": float((result - crops).abs().max()),
                   "outside_mask": float((result - crops)[mask.expand(len(crops), -1, -1) == 0].abs().max())}
            if expected is not None:
                row["difference_max"] = float((result - expected).abs().max())
            return row | {"ms_per_crop": statistics.median(times) / len(crops), "ran_on": str(model.load_device), "runs_ms": times}

        yield attempt({"model": "SD 1.5, small", "dtype": name}, measure)


def _import_comfyui(setup: Setup) -> None:
    """Makes the ComfyUI of COMFYUI_DIR importable, with folders of this run. ``Skip`` where there is none or it cannot be imported."""
    folder = os.environ.get("COMFYUI_DIR")
    if not folder or not (Path(folder) / "comfy_api").is_dir():
        raise Skip("COMFYUI_DIR names no ComfyUI checkout")
    sys.path.insert(0, str(Path(folder).resolve()))
    sys.argv = sys.argv[:1]
    try:
        import comfy.cli_args

        comfy.cli_args.args.cpu = setup.device == "cpu"
        import folder_paths
    except ImportError as error:
        raise Skip(f"ComfyUI cannot be imported by {sys.executable} ({error}); COMFYUI_PYTHON names the Python that can") from error
    for kind in ("input", "output", "temp"):
        path = setup.folder / f"comfyui-{kind}"
        path.mkdir(exist_ok=True)
        getattr(folder_paths, f"set_{kind}_directory")(str(path))


def _doubles() -> ModuleType:
    spec = importlib.util.spec_from_file_location("diffusion_doubles", ROOT / "tests" / "nodes" / "diffusion_doubles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

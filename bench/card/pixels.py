"""The section about crops, masks and paste on the card: the same results as on the CPU, and what they cost."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch
from faceloom.models.crops.crop import crop_faces
from faceloom.models.options.paste import BLENDS, COLORS, PasteSettings
from faceloom.models.parse import region_mask
from faceloom.models.paste import paste
from faceloom.models.pixels.masks import feather_mask, grow_mask

from bench.card.scene import make_frame
from bench.card.sessions import SMALL_BYTES
from bench.card.tools import Setup, attempt, count_transfers, time_on_card, time_task

GOAL = 1 / 255


@torch.inference_mode()
def paste_on_device(setup: Setup) -> Iterator[dict]:
    """Yields a row per operation: the largest difference to the CPU's result (0..1), milliseconds on both, and the bytes that went between
    card and host meanwhile, of which there should be none but numbers."""
    count = 2 if setup.tiny else 4
    on_device, on_cpu = (_tasks(setup, device, count) for device in (setup.device, "cpu"))
    for name, task in on_device.items():

        def measure(task: Callable[[], torch.Tensor] = task, reference: Callable[[], torch.Tensor] = on_cpu[name]) -> dict:
            result, expected = task(), reference()
            difference = float((result.cpu() - expected).abs().max())
            moved = count_transfers(task, setup.device)
            times, cpu_times = time_task(task, setup.device, setup.runs), time_task(reference, "cpu", 3)
            row = {"on": result.device.type, "difference": difference, "same": difference <= GOAL, "ms": statistics.median(times),
                   "cpu_ms": statistics.median(cpu_times), "card_ms": time_on_card(task, setup.device), **moved}
            if "to_host_bytes" in moved:
                row["no_picture_copied"] = max(moved["to_card_bytes"], moved["to_host_bytes"]) <= SMALL_BYTES
            return row | {"runs_ms": times, "runs_cpu_ms": cpu_times}

        yield attempt({"operation": name, "faces": count}, measure)


def _tasks(setup: Setup, device: str, count: int) -> dict[str, Callable[[], torch.Tensor]]:
    """Makes the operations on one device; inputs are made on the CPU and moved, so that they are the same on both."""
    images, faces = make_frame(setup, count, "cpu")
    edited, masks = 1 - crop_faces(images, faces), region_mask(("face",), setup.crop, faces=faces)
    images, edited, masks = (values.to(device) for values in (images, edited, masks))
    tasks: dict[str, Callable[[], torch.Tensor]] = {
        "copy of the frame": images.clone,
        "crops": lambda: crop_faces(images, faces),
        "face masks": lambda: region_mask(("face",), setup.crop, faces=faces, crops=edited),
        "masks grown": lambda: grow_mask(masks, setup.crop / 32),
        "masks feathered": lambda: feather_mask(masks, setup.crop / 16),
        "paste": lambda: paste(images, faces, edited, masks)[0],
        "paste of unchanged crops": lambda: paste(images, faces, crop_faces(images, faces), masks)[0],
    }
    choices = [("color", color) for color in COLORS if color != "none"] + [("blend", blend) for blend in BLENDS if blend != "feather"]
    for key, value in choices:
        settings = PasteSettings(**{key: value})
        tasks[f"paste, {value}"] = lambda settings=settings: paste(images, faces, edited, masks, settings)[0]
    return tasks

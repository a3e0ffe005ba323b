"""Reads the model folders that a ComfyUI user keeps elsewhere, for commands that run without ComfyUI."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

LOG = logging.getLogger("faceloom")


def extra_paths(file: Path) -> dict[str, tuple[Path, ...]]:
    """Read the folders by key that an ``extra_model_paths.yaml`` lists, as ComfyUI's utils/extra_config.py does.

    Empty where there is no such file. Where it cannot be read, and where PyYAML, with which ComfyUI reads it, is not installed, it is empty
    and the log says so.
    """
    if not file.is_file():
        return {}
    try:
        import yaml
    except ImportError:
        LOG.warning("%s was not read, because PyYAML is not installed; run pip install pyyaml, or name the folders in FACELOOM_MODELS.",
                    file)
        return {}
    try:
        sections = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        LOG.warning("%s was not read, because it is damaged (%s).", file, type(error).__name__)
        return {}
    found: dict[str, list[Path]] = {}
    for section in sections.values() if isinstance(sections, Mapping) else ():
        for key, folder, first in _section_folders(section, file.parent):
            found.setdefault(key, []).insert(0 if first else len(found[key]), folder)
    return {key: tuple(folders) for key, folders in found.items()}


def _section_folders(section: object, config_folder: Path) -> Iterator[tuple[str, Path, bool]]:
    """Yield the key of each folder of a section, the folder, and whether it goes before the others (``is_default``)."""
    if not isinstance(section, Mapping):
        return
    base = config_folder / os.path.expandvars(os.path.expanduser(str(section.get("base_path", ""))))
    for key, lines in section.items():
        if key not in ("base_path", "is_default") and isinstance(lines, str):
            for line in filter(None, lines.split("\n")):
                yield str(key), Path(os.path.normpath(base / line)), bool(section.get("is_default"))

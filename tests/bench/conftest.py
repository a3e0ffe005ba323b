"""``bench`` is not part of the package: it is imported from the checkout."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "bench"
if "bench" not in sys.modules:
    spec = importlib.util.spec_from_file_location("bench", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)])
    sys.modules["bench"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["bench"])

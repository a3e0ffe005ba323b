"""``python -m faceloom``, and ``python FOLDER`` where the folder is not on Python's path, as in ComfyUI's custom_nodes."""

import sys

if __package__:
    from .cli import run_program
else:
    from importlib import import_module, util
    from pathlib import Path

    FOLDER = Path(__file__).absolute().parent
    specification = util.spec_from_file_location("faceloom_here", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)])
    sys.modules["faceloom_here"] = util.module_from_spec(specification)
    specification.loader.exec_module(sys.modules["faceloom_here"])
    # Python put the folder itself on its path, and the names of what is in it are too common.
    sys.path[:] = [place for place in sys.path if Path(place).absolute() != FOLDER]
    run_program = import_module("faceloom_here.cli").run_program

run_program()

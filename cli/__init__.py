"""``python -m faceloom COMMAND``: a thin caller of ``models/``.

Exit codes of every command: 0 all done, 1 some of the work failed (each failure is one sentence on stderr, the rest is done),
2 the request itself cannot be carried out (nothing was written), 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

# command -> what it does. Each is a module beside this one with add_arguments(parser) and run(arguments) -> exit code.
COMMANDS = {
    "demo": "swap the faces of two public-domain portraits, both ways",
    "swap": "put one person's face into photographs",
    "models": "list, fetch and check model files",
}
OK, SOME_FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended
# import name -> package, where they differ
PACKAGES = {"dlib": "dlib-bin", "PIL": "pillow", "skimage": "scikit-image"}


def own_version() -> str:
    """FaceLoom's version, or ``"source"`` when it runs from a folder that pip does not know."""
    try:
        return version("faceloom")
    except PackageNotFoundError:
        return "source"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. ``argv`` defaults to the terminal's."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in COMMANDS:
        parser = _front_door()
        parser.parse_args(argv)  # --help, --version, and unknown commands end here
        parser.print_help()
        return USER_ERROR
    for stream in (sys.stdout, sys.stderr):  # a terminal without arrows shows ? instead of failing
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = _run(argv[0], argv[1:])
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("faceloom: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has seen enough; what Python flushes at exit goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _run(name: str, argv: list[str]) -> int:
    from ..models.errors import FaceLoomError

    try:
        command = import_module(f".{name}", __package__)
        parser = argparse.ArgumentParser(f"python -m faceloom {name}", description=command.__doc__,
                                         formatter_class=argparse.RawDescriptionHelpFormatter)
        command.add_arguments(parser)
        return command.run(parser.parse_intermixed_args(argv))
    except FaceLoomError as error:
        print(f"faceloom: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("faceloom"):
            raise
        package = PACKAGES.get(error.name, error.name)
        print(f'faceloom: {name} needs the Python package {package}; run: "{sys.executable}" -m pip install {package}', file=sys.stderr)
    return USER_ERROR


def _front_door() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:<8}{text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        "python -m faceloom", usage="python -m faceloom COMMAND ...", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Face swapping from the command line.", epilog=f"commands:\n{commands}\n\nCOMMAND --help tells more.")
    parser.add_argument("command", nargs="?", choices=list(COMMANDS), metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"faceloom {own_version()}")
    return parser

"""``python -m faceloom COMMAND``: a thin caller of ``models/``.

Exit codes of every command: 0 all done, 1 some of the work failed (each failure is one sentence on stderr, the rest is done),
2 the request itself cannot be carried out (nothing was written), 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import io
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

# command -> what it does. Each is a module beside this one with add_arguments(parser) and run(arguments) -> exit code.
COMMANDS = {
    "demo": "swap the faces of two public-domain portraits, both ways",
    "swap": "put one person's face into photographs and clips",
    "queue": "run a ComfyUI workflow for every picture of a folder, on a running server",
    "identity": "make, list, show, blend and check the people that swap puts into pictures",
    "models": "list, fetch and check model files",
}
OK, SOME_FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended
# what the system says of a disk that takes no more
FULL = {errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)}
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
    except BrokenPipeError:  # the reader (head, less) has seen enough
        _close_output()
        return BROKEN_PIPE
    except OSError as error:  # of printing: files that cannot be written are FaceLoomErrors
        if error.errno not in FULL:
            raise
        _close_output()
        print(f"faceloom: What was to be printed cannot be written ({error.strerror}).", file=sys.stderr)
        return SOME_FAILED


def run_program() -> NoReturn:
    """Runs one command as a program of its own: ends with its exit code, and a Ctrl-C after the first one changes nothing."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where the shell has Ctrl-C ignored
        signal.signal(signal.SIGINT, _Impatience())
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is Python's own end
    sys.exit(code)


class _Impatience:
    """Raises KeyboardInterrupt at a Ctrl-C, and takes those within the next second for the same one: what an interrupt ends is ended
    whole."""

    def __init__(self) -> None:
        self.last = -math.inf

    def __call__(self, number: int, frame: object) -> None:
        if time.monotonic() - self.last > 1:
            self.last = time.monotonic()
            raise KeyboardInterrupt


def _close_output() -> None:
    """Lets what Python flushes at its exit go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(name: str, argv: list[str]) -> int:
    from ..models.errors import FaceLoomError

    try:
        command = import_module(f".{name}", __package__)
        parser = argparse.ArgumentParser(f"python -m faceloom {name}", description=command.__doc__,
                                         formatter_class=argparse.RawDescriptionHelpFormatter)
        command.add_arguments(parser)
        return command.run(parser.parse_intermixed_args(_without_dashes(argv)))
    except FaceLoomError as error:
        print(f"faceloom: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("faceloom"):
            raise
        package = PACKAGES.get(error.name, error.name)
        print(f'faceloom: {name} needs the Python package {package}; run: "{sys.executable}" -m pip install {package}', file=sys.stderr)
    return USER_ERROR


def _without_dashes(argv: list[str]) -> list[str]:
    """Returns the words without the ``--`` that says that only names follow, which argparse forgets where words are mixed; names that begin
    with a dash are written as paths."""
    if "--" not in argv:
        return argv
    at = argv.index("--")
    return [*argv[:at], *(f".{os.sep}{word}" if word.startswith("-") else word for word in argv[at + 1 :])]


def _front_door() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        "python -m faceloom", usage="python -m faceloom COMMAND ...", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Face swapping from the command line.", epilog=f"commands:\n{commands}\n\nCOMMAND --help tells more.")
    parser.add_argument("command", nargs="?", choices=list(COMMANDS), metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"faceloom {own_version()}")
    return parser

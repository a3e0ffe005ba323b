"""Progress bars of clips."""

from __future__ import annotations

import sys

_FORM = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} frames, {rate_noinv_fmt}, {remaining} left"


def frames_bar(what: str, total: int | None, quiet: bool, done: int = 0):
    """Returns a bar that counts frames, with how many a second and the time that is left. done: by an earlier run."""
    from tqdm import tqdm

    form = _FORM if total else "{desc}: {n_fmt} frames, {rate_noinv_fmt}"
    return tqdm(total=total, initial=done, desc=what, unit=" frames", file=sys.stderr, disable=quiet, bar_format=form, leave=False)

"""The one error type users see."""

from __future__ import annotations


class FaceLoomError(ValueError):
    """Something the user can put right. The message is one sentence that says what to do."""

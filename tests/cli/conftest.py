"""Fixtures of the tests of ``swap``."""

from swap_doubles import doubles, photographs

__all__ = ["doubles", "photographs"]

"""Contests with other programs in one run: speed and memory. It is part of the checkout, not of the published package."""

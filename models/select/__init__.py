"""Faces to Faces: choosing them by a rule, following them along a clip, and steadying them."""

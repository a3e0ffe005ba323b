"""A face's landmarks in space: a 3-D face fitted to them, and the masks, drawings and control pictures made of it."""

from .mask3d import landmark_mask

__all__ = ["landmark_mask"]

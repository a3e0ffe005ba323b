"""Dense landmarks and the fitted 3-D face."""

from .mask3d import landmark_mask

__all__ = ["landmark_mask"]

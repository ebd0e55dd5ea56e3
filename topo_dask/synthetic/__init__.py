"""Synthetic volumes whose labels are known: shapes, noisy flow, and a tiling of any size read by blocks.

Everything is deterministic: the same arguments give the same voxels. Objects never overlap but may touch;
each is 6-connected, and they are numbered 1..n.
"""

from .shapes import blobs, noisy, touching_plates, tubes
from .tiling import Tiling

__all__ = ["Tiling", "blobs", "noisy", "touching_plates", "tubes"]

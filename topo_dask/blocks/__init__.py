"""Geometry of boxes, blocks and halos, in integers only."""

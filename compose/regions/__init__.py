"""Regions: where in the picture an adapter belongs.

A region is part of a request, so that every method can use the same one. `drawn` brings it to the
grid of the latents; from there `compose.slot` brings it to the grid of each layer. What becomes of
places with several regions, or with none, is up to the method: see `shared`.
"""

from compose.regions.masks import OVERLAPS, drawn, feathered, shared
from compose.regions.shapes import Box, Mask, Region, region_from_json

__all__ = [
    "OVERLAPS",
    "Box",
    "Mask",
    "Region",
    "drawn",
    "feathered",
    "region_from_json",
    "shared",
]

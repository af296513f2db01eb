"""Gated layers and how they get into a model and out again."""

from compose.layers.gated import GatedLoraConv2d, GatedLoraLayer, GatedLoraLinear
from compose.layers.install import Installation, install

__all__ = ["GatedLoraConv2d", "GatedLoraLayer", "GatedLoraLinear", "Installation", "install"]

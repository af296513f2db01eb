"""Attention that is captured, biased, and made into maps and masks."""

from compose.attention.bias import Bias, Isolation, RegionBlocks, TextBias
from compose.attention.capture import Capture, Captured, Columns, LayerCapture, Outputs
from compose.attention.layers import Layers, image_layers, text_layers
from compose.attention.streams import Stream

__all__ = [
    "Bias",
    "Capture",
    "Captured",
    "Columns",
    "Isolation",
    "LayerCapture",
    "Layers",
    "Outputs",
    "RegionBlocks",
    "Stream",
    "TextBias",
    "image_layers",
    "text_layers",
]

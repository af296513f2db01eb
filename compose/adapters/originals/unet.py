"""The UNet of Stable Diffusion 1.x, 2.x and XL under the names of its first release (LDM, sgm).

There the blocks are one list of layers down and one up: a resnet with its attention is one entry,
a downsampler one of its own, an upsampler the last part of the entry before it. Which entry a
module of diffusers' nested blocks is follows from counting the model's own blocks, so that models
of any depth are understood.

Source: https://github.com/Stability-AI/generative-models,
sgm/modules/diffusionmodules/openaimodel.py; the correspondence is the one of diffusers'
`convert_ldm_unet_checkpoint`, which takes it from the model's settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from compose.adapters.originals.parts import Names, Sizes, numbers, translate, whole

SIGN = re.compile(r"(?:(?:input|output)_blocks|middle_block|time_embed|label_emb|out)[._]\d")

_OUTSIDE = {
    "time_embed.0": ("time_embedding.linear_1",),
    "time_embed.2": ("time_embedding.linear_2",),
    "label_emb.0.0": ("add_embedding.linear_1",),
    "label_emb.0.2": ("add_embedding.linear_2",),
    "input_blocks.0.0": ("conv_in",),
    "out.2": ("conv_out",),
}
_RESNET = {
    "in_layers.2": ("conv1",),
    "emb_layers.1": ("time_emb_proj",),
    "out_layers.3": ("conv2",),
    "skip_connection": ("conv_shortcut",),
}


def is_model(sizes: Sizes) -> bool:
    """Whether a component is such a UNet."""
    return any(path.startswith("down_blocks.") for path in sizes)


def original_names(sizes: Sizes) -> Names:
    """Original name of every module to its path."""
    names = translate(sizes, _OUTSIDE, "", "")
    for old, new in _entries(sizes):
        names |= translate(sizes, _RESNET, f"{old}.", f"{new}.")
        start = f"{new}."
        if ".attentions." in start:  # inside, both releases have the same names
            within = (path for path in sizes if path.startswith(start))
            names |= {f"{old}.{path[len(start) :]}": whole(sizes, path) for path in within}
    return names | _samplers(sizes)


def _entries(sizes: Sizes) -> Iterator[tuple[str, str]]:
    """Original and new path of every resnet and every attention."""
    for entry, block, layer, _ in _layers(sizes, "down_blocks"):
        yield f"input_blocks.{entry}.0", f"{block}.resnets.{layer}"
        yield f"input_blocks.{entry}.1", f"{block}.attentions.{layer}"
    for layer in numbers(sizes, "mid_block.resnets."):
        yield f"middle_block.{2 * layer}", f"mid_block.resnets.{layer}"
        yield f"middle_block.{2 * layer + 1}", f"mid_block.attentions.{layer}"
    for entry, block, layer, _ in _layers(sizes, "up_blocks"):
        yield f"output_blocks.{entry}.0", f"{block}.resnets.{layer}"
        yield f"output_blocks.{entry}.1", f"{block}.attentions.{layer}"


def _layers(sizes: Sizes, side: str) -> Iterator[tuple[int, str, int, bool]]:
    """Number of the entry, path of the block, number of the layer, and whether it is the last."""
    entry = 0 if side == "up_blocks" else 1  # the first entry down is conv_in
    for number in numbers(sizes, f"{side}."):
        block = f"{side}.{number}"
        layers = numbers(sizes, f"{block}.resnets.")
        for layer in layers:
            yield entry, block, layer, layer == layers[-1]
            entry += 1
        entry += f"{block}.downsamplers.0.conv" in sizes


def _samplers(sizes: Sizes) -> Names:
    names: Names = {}
    for side in ("down_blocks", "up_blocks"):
        for entry, block, layer, last in _layers(sizes, side):
            down, up = f"{block}.downsamplers.0.conv", f"{block}.upsamplers.0.conv"
            if last and down in sizes:
                names[f"input_blocks.{entry + 1}.0.op"] = whole(sizes, down)
            if last and up in sizes:
                attends = f"{block}.attentions.{layer}.proj_in" in sizes
                names[f"output_blocks.{entry}.{1 + attends}.conv"] = whole(sizes, up)
    return names

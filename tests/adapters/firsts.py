"""Modules of the first releases of models, listed the way those build them: name to weight shape.

Apart from the tables under test. The sources: openaimodel.py of generative-models, mmditx.py of
sd3.5, model.py of flux, layers.py of x-flux, transformer.py of open_clip.
"""

from __future__ import annotations

from collections.abc import Sequence

Shapes = dict[str, tuple[int, ...]]


def sgm_unet(
    width: int,
    multiples: Sequence[int],
    resnets: int,
    depths: Sequence[int],
    middle: int,
    text: int,
    added: int | None = None,
    linear: bool = True,
) -> Shapes:
    """A UNet.

    Args:
        width: channels after the first convolution.
        multiples: of it, by level.
        resnets: a level has on its way down; it has one more on its way up.
        depths: transformer blocks after every resnet, by level; 0 for no attention.
        middle: transformer blocks in the middle.
        text: width of the text.
        added: width of the vector conditioning; None for none.
        linear: whether the projections around transformer blocks are linear layers.
    """
    time = 4 * width
    found: Shapes = {"time_embed.0": (time, width), "time_embed.2": (time, time)}
    if added is not None:
        found |= {"label_emb.0.0": (time, added), "label_emb.0.2": (time, time)}
    found["input_blocks.0.0"] = (width, 4, 3, 3)
    channels, skipped, entry = width, [width], 1
    for level, multiple in enumerate(multiples):
        for _ in range(resnets):
            found |= _resnet(f"input_blocks.{entry}.0", channels, multiple * width, time)
            channels = multiple * width
            found |= _attention(f"input_blocks.{entry}.1", channels, depths[level], text, linear)
            skipped.append(channels)
            entry += 1
        if level != len(multiples) - 1:
            found[f"input_blocks.{entry}.0.op"] = (channels, channels, 3, 3)
            skipped.append(channels)
            entry += 1
    found |= _resnet("middle_block.0", channels, channels, time)
    found |= _attention("middle_block.1", channels, middle, text, linear)
    found |= _resnet("middle_block.2", channels, channels, time)
    entry = 0
    for level, multiple in reversed(list(enumerate(multiples))):
        for number in range(resnets + 1):
            out = multiple * width
            found |= _resnet(f"output_blocks.{entry}.0", channels + skipped.pop(), out, time)
            channels, place = out, 1
            if depths[level]:
                found |= _attention(f"output_blocks.{entry}.1", out, depths[level], text, linear)
                place = 2
            if level and number == resnets:
                found[f"output_blocks.{entry}.{place}.conv"] = (out, out, 3, 3)
            entry += 1
    return found | {"out.2": (4, width, 3, 3)}


def _resnet(name: str, channels: int, out: int, time: int) -> Shapes:
    found: Shapes = {
        f"{name}.in_layers.2": (out, channels, 3, 3),
        f"{name}.emb_layers.1": (out, time),
        f"{name}.out_layers.3": (out, out, 3, 3),
    }
    if channels != out:
        found[f"{name}.skip_connection"] = (out, channels, 1, 1)
    return found


def _attention(name: str, width: int, depth: int, text: int, linear: bool) -> Shapes:
    found: Shapes = {}
    kernel = () if linear else (1, 1)
    for number in range(depth):
        block = f"{name}.transformer_blocks.{number}"
        for layer, reads in (("attn1", width), ("attn2", text)):
            found |= {
                f"{block}.{layer}.to_q": (width, width),
                f"{block}.{layer}.to_k": (width, reads),
                f"{block}.{layer}.to_v": (width, reads),
                f"{block}.{layer}.to_out.0": (width, width),
            }
        found |= {
            f"{block}.ff.net.0.proj": (8 * width, width),
            f"{block}.ff.net.2": (width, 4 * width),
        }
    if depth:
        found |= {f"{name}.{p}": (width, width, *kernel) for p in ("proj_in", "proj_out")}
    return found


def mmdit(width: int, blocks: int, dual: int, text: int, pooled: int, channels: int = 16) -> Shapes:
    """A transformer of Stable Diffusion 3.5; `dual`: the first blocks that attend twice."""
    found: Shapes = {
        "x_embedder.proj": (width, channels, 2, 2),
        "context_embedder": (width, text),
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "y_embedder.mlp.0": (width, pooled),
        "y_embedder.mlp.2": (width, width),
        "final_layer.linear": (4 * channels, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    for block in range(blocks):
        last = block == blocks - 1
        for stream in ("x_block", "context_block"):
            name = f"joint_blocks.{block}.{stream}"
            found[f"{name}.attn.qkv"] = (3 * width, width)
            chunks = 9 if stream == "x_block" and block < dual else 6
            if stream == "context_block" and last:  # only its keys and values are needed
                found[f"{name}.adaLN_modulation.1"] = (2 * width, width)
                continue
            found |= {
                f"{name}.adaLN_modulation.1": (chunks * width, width),
                f"{name}.attn.proj": (width, width),
                f"{name}.mlp.fc1": (4 * width, width),
                f"{name}.mlp.fc2": (width, 4 * width),
            }
            if chunks == 9:
                found[f"{name}.attn2.qkv"] = (3 * width, width)
                found[f"{name}.attn2.proj"] = (width, width)
    return found


def flux(
    width: int, double: int, single: int, text: int, pooled: int, channels: int = 64
) -> Shapes:
    """A transformer of FLUX.1-dev."""
    found: Shapes = {
        "img_in": (width, channels),
        "txt_in": (width, text),
        "final_layer.linear": (channels, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    for name, reads in (("time_in", 256), ("vector_in", pooled), ("guidance_in", 256)):
        found |= {f"{name}.in_layer": (width, reads), f"{name}.out_layer": (width, width)}
    for block in range(double):
        for stream in ("img", "txt"):
            name = f"double_blocks.{block}.{stream}"
            found |= {
                f"{name}_mod.lin": (6 * width, width),
                f"{name}_attn.qkv": (3 * width, width),
                f"{name}_attn.proj": (width, width),
                f"{name}_mlp.0": (4 * width, width),
                f"{name}_mlp.2": (width, 4 * width),
            }
    for block in range(single):
        name = f"single_blocks.{block}"
        found |= {
            f"{name}.linear1": (7 * width, width),
            f"{name}.linear2": (width, 5 * width),
            f"{name}.modulation.lin": (3 * width, width),
        }
    return found


def xlabs(width: int, double: int, single: int) -> Shapes:
    """What XLabs' LoRAs change in FLUX.1."""
    found: Shapes = {}
    for block in range(double):
        for number in (1, 2):
            name = f"double_blocks.{block}.processor"
            found[f"{name}.qkv_lora{number}"] = (3 * width, width)
            found[f"{name}.proj_lora{number}"] = (width, width)
    for block in range(single):
        name = f"single_blocks.{block}.processor"
        found |= {f"{name}.qkv_lora": (3 * width, width), f"{name}.proj_lora": (width, 5 * width)}
    return found


def open_clip(width: int, inner: int, layers: int) -> Shapes:
    """A text encoder."""
    found: Shapes = {}
    for layer in range(layers):
        name = f"transformer.resblocks.{layer}"
        found |= {
            f"{name}.attn.in_proj": (3 * width, width),
            f"{name}.attn.out_proj": (width, width),
            f"{name}.mlp.c_fc": (inner, width),
            f"{name}.mlp.c_proj": (width, inner),
        }
    return found

"""Sites of a family against what its modules really see."""

from __future__ import annotations

import torch
from torch import nn

from compose.models.family import Family
from compose.types import Size


def outputs_seen(family: Family, size: Size) -> dict[str, torch.Size]:
    """Output shape of every linear and convolution of the denoiser in one call."""
    seen: dict[str, torch.Size] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, args, out, path=path: seen.__setitem__(path, out.shape)
        )
        for path, module in family.denoiser.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    schedule = family.schedule(1)
    noise = family.latents(size, schedule, [torch.Generator(), torch.Generator()])
    with torch.no_grad():
        family.predict(noise, schedule.step(0), family.encode(["cat", "dog"]))
    for hook in hooks:
        hook.remove()
    return seen


def check_sites(family: Family, size: Size) -> set[str]:
    """Assert that streams and grids are what the modules see; returns the streams there are."""
    schedule = family.schedule(1)
    layout = family.layout(family.latents(size, schedule, [torch.Generator()]))
    text = family.encode(["cat"]).embeds.shape[1]
    streams = set()
    for path, shape in outputs_seen(family, size).items():
        site = family.site(family.denoiser_name, path, family.denoiser.get_submodule(path))
        streams.add(site.stream)
        h, w = layout.grid(site.level)
        if site.kind == "conv":
            assert tuple(shape[2:]) == (h, w), path
        elif site.stream == "image":
            assert shape[1] == h * w, path
        elif site.stream == "text":
            assert shape[1] == text, path
        else:
            assert len(shape) == 2, path
    return streams

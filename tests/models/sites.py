"""Sites of a family against what its modules really see."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from compose.models.family import Family
from compose.types import Size

Place = tuple[str, str]
"""Component, and module path inside it."""


def outputs_seen(family: Family, size: Size) -> dict[Place, torch.Size]:
    """Output shape of every linear and convolution in one call over two rows."""
    seen: dict[Place, torch.Size] = {}

    def note(place: Place) -> Callable[..., None]:
        return lambda module, args, out: seen.__setitem__(place, out.shape)

    hooks = [
        module.register_forward_hook(note((component, path)))
        for component, part in family.components.items()
        for path, module in part.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    schedule = family.schedule(1)
    noise = family.latents(size, schedule, [torch.Generator(), torch.Generator()])
    with torch.no_grad():
        family.predict(noise, schedule.step(0), family.encode(["cat", "dog"]))
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(hooks)
    return seen


def check_sites(family: Family, size: Size) -> set[str]:
    """Assert that streams and grids are what the modules see; returns the denoiser's streams."""
    schedule = family.schedule(1)
    layout = family.layout(family.latents(size, schedule, [torch.Generator()]))
    text = family.encode(["cat"]).embeds.shape[1]
    streams = set()
    for (component, path), shape in outputs_seen(family, size).items():
        site = family.site(component, path, family.components[component].get_submodule(path))
        assert (site.component, site.path) == (component, path)
        h, w = layout.grid(site.level)
        if component != family.denoiser_name:
            assert site.stream == ("text" if len(shape) == 3 else "vector"), path
            continue
        streams.add(site.stream)
        if site.kind == "conv":
            assert tuple(shape[2:]) == (h, w), path
        elif site.stream == "image":
            assert shape[1] == h * w, path
        elif site.stream == "text":
            assert shape[1] == text, path
        else:
            assert len(shape) == 2, path
    return streams

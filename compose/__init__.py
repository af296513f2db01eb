"""Several LoRAs in one image, and each of them survives.

Example:
    >>> import compose
    >>> result = compose.generate(
    ...     "mochi cat on the left and biscuit dog on the right", {"mochi": 1.0, "biscuit": 1.0}
    ... )
    >>> result.images[0].image.save("both.png")

Names are imported when they are first used, so that ``import compose`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compose.adapters.adapter import Adapter, AdapterSet
    from compose.adapters.library import AdapterLibrary
    from compose.attachment import Attached, AttachWarning, attach
    from compose.composer import Composer
    from compose.errors import ComposeError
    from compose.fusion import methods
    from compose.gate import Gate
    from compose.method import CompositionMethod, GatedMethod, param
    from compose.models.options import LoadOptions
    from compose.quick import generate
    from compose.regions import Box, Mask
    from compose.request import AdapterUse, Request
    from compose.result import ComposedImage, Result
    from compose.run import Pass, Run
    from compose.types import Site, Size, Step

__version__ = "0.1.0"

_HOMES = {
    "compose.adapters.adapter": ("Adapter", "AdapterSet"),
    "compose.adapters.library": ("AdapterLibrary",),
    "compose.attachment": ("AttachWarning", "Attached", "attach"),
    "compose.composer": ("Composer",),
    "compose.errors": ("ComposeError",),
    "compose.fusion": ("methods",),
    "compose.gate": ("Gate",),
    "compose.quick": ("generate",),
    "compose.regions": ("Box", "Mask"),
    "compose.models.options": ("LoadOptions",),
    "compose.method": ("CompositionMethod", "GatedMethod", "param"),
    "compose.request": ("AdapterUse", "Request"),
    "compose.result": ("ComposedImage", "Result"),
    "compose.run": ("Pass", "Run"),
    "compose.types": ("Site", "Size", "Step"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Adapter",
    "AdapterLibrary",
    "AdapterSet",
    "AdapterUse",
    "AttachWarning",
    "Attached",
    "Box",
    "ComposeError",
    "ComposedImage",
    "Composer",
    "CompositionMethod",
    "Gate",
    "GatedMethod",
    "LoadOptions",
    "Mask",
    "Pass",
    "Request",
    "Result",
    "Run",
    "Site",
    "Size",
    "Step",
    "attach",
    "generate",
    "methods",
    "param",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'compose' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""Attention back ends by name. What runs them is in `compose.models.routing`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compose.errors import RequestError, nearest

NATIVE = "native"
"""Torch's own choice among its kernels."""


@dataclass(frozen=True)
class Backend:
    """A back end that can be chosen.

    Attributes:
        package: distribution that it comes from; empty for torch.
        masks: whether it takes masks.
        cuda: whether it needs a CUDA GPU.
    """

    package: str = ""
    masks: bool = True
    cuda: bool = False


BACKENDS: Mapping[str, Backend] = {
    NATIVE: Backend(),
    "_native_math": Backend(),
    "_native_efficient": Backend(cuda=True),
    "_native_cudnn": Backend(cuda=True),
    "_native_flash": Backend(masks=False),
    "flash": Backend("flash-attn", masks=False, cuda=True),
    "_flash_3": Backend("flash-attn-3", masks=False, cuda=True),
    "sage": Backend("sageattention", masks=False, cuda=True),
    "xformers": Backend("xformers", cuda=True),
}
"""By the names that diffusers gives them (`diffusers.models.attention_dispatch`). Left out are
those that download their kernels, those for other devices, those for rows of different lengths, and
flex, which diffusers runs without the compiler that makes it fast.
"""


def check_name(name: str) -> None:
    """Refuse a back end that cannot be chosen.

    Raises:
        RequestError: an unknown name.
    """
    if name not in BACKENDS:
        raise RequestError(f"attention back end {name!r} is unknown; {nearest(name, BACKENDS)}")

"""What comes back from a request, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from compose.adapters.adapter import AdapterSet
from compose.adapters.formats import KeyReport
from compose.explain import Explanation
from compose.request import Request
from compose.run import CallRecord, Calls


@dataclass(frozen=True)
class Progress:
    """Where a request stands: `step` of `steps` done on picture `image` of `images`.

    `latents` [1, C, H, W] are what the next step will start from, to be looked at and left alone.
    """

    image: int
    images: int
    step: int
    steps: int
    latents: Tensor = field(repr=False, compare=False)


@dataclass(frozen=True)
class ComposedImage:
    """One finished picture.

    Attributes:
        image: RGB.
        seed: of its noise.
        request: asks for this picture alone, with every default filled in.
        calls, trace: what it cost, and what every denoiser call saw.
        denoise, decode: seconds.
        explanation: what each adapter did, where that was asked for.
    """

    image: Image.Image
    seed: int
    request: Request
    calls: Calls
    trace: tuple[CallRecord, ...]
    denoise: float
    decode: float
    explanation: Explanation | None = None


@dataclass(frozen=True)
class Prepared:
    """A request whose adapters are loaded and whose sense is checked.

    Attributes:
        request: with every default filled in.
        adapters: loaded, in the order of the request.
        reports: which keys of each file were used.
        warnings: what the user should know; one line each.
        explain: whether pictures shall tell what each adapter did.
    """

    request: Request
    adapters: AdapterSet
    reports: tuple[KeyReport, ...]
    warnings: tuple[str, ...]
    explain: bool = False


@dataclass(frozen=True)
class Result:
    """All pictures of a request."""

    images: tuple[ComposedImage, ...]
    warnings: tuple[str, ...] = ()

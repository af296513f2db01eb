"""The words that every floor shares: where a linear sits, and where a run stands. Data only, no
logic.

Axes, used in every docstring of the package:
    rows    samples of one denoiser call (passes x images)
    K       adapters; r_k rank of adapter k; R = sum of r_k
    n       tokens at a site; T text tokens; H, W the latent grid; h, w the grid of a site
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Stream = Literal["image", "text", "joint", "vector"]
Kind = Literal["linear", "conv"]
Attended = Literal["image", "text", "joint"]
Role = Literal["", "key", "value"]


@dataclass(frozen=True)
class Site:
    """A module that adapters can change.

    Attributes:
        component: part of the model, such as "unet", "transformer" or "text_encoder".
        path: dotted module path inside the component.
        stream: what the rows of its input are: image tokens, text tokens, both in one sequence, or
            no tokens at all.
        kind: linear layer or 2-d convolution.
        block: coarse place such as "down.1", "mid" or "up.0"; empty where blocks make no sense.
        level: how often the latent grid was halved before the output of this module; 0 for streams
            without a grid.
        role: whether it makes the keys or the values of an attention layer in which image tokens
            attend to text alone; empty for all other modules.
    """

    component: str
    path: str
    stream: Stream
    kind: Kind = "linear"
    block: str = ""
    level: int = 0
    role: Role = ""

    @property
    def name(self) -> str:
        """Unique name: ``component.path``."""
        return f"{self.component}.{self.path}"


@dataclass(frozen=True)
class AttentionSite:
    """A layer of the denoiser in which image tokens attend.

    Attributes:
        path: dotted module path inside the denoiser.
        keys: what they attend to: image tokens (self-attention), text tokens (cross-attention), or
            both in one sequence, in which the text attends too.
        block: as of `Site`.
        level: how often the latent grid was halved; None in a model that never halves it.
    """

    path: str
    keys: Attended
    block: str = ""
    level: int | None = None


@dataclass(frozen=True)
class Step:
    """Where a run stands.

    Attributes:
        index: 0-based position in the list of timesteps.
        total: length of that list. Schedulers of higher order visit more timesteps than were asked
            for.
        t: timestep as the scheduler gives it, [] tensor.
        sigma: noise level of the scheduler at this step where it has one, else the timestep over
            1000.
    """

    index: int
    total: int
    t: Tensor
    sigma: float

    @property
    def progress(self) -> float:
        """Share of the run that lies behind, in [0, 1)."""
        return self.index / self.total


@dataclass(frozen=True)
class Token:
    """Which characters of a prompt a text position stands for.

    A family with several text encoders has several positions for one word.

    Attributes:
        position: on the T axis of the embeddings.
        start, end: of the characters, end exclusive.
    """

    position: int
    start: int
    end: int


@dataclass(frozen=True)
class TextOptions:
    """How prompts are encoded.

    Attributes:
        clip_skip: which layer of the CLIP encoders is read, counted from the end as A1111 and
            ComfyUI count: 1 the last, 2 the one before; None for the family's own.
        windows: how many windows of a CLIP encoder the longest prompt of the run needs; all its
            prompts are padded to the same number, so that they can share a batch.
    """

    clip_skip: int | None = None
    windows: int = 1


@dataclass(frozen=True)
class Encoded:
    """From what the embeddings of a conditioning were made.

    Attributes:
        prompts: one for every row, as written.
        weights: [K] of the adapters' text-encoder parts.
        negative: whether it is for the negative prompt.
        embeds: the embeddings as they came out. Whoever changes a conditioning puts others there.
    """

    prompts: tuple[str, ...]
    weights: tuple[float, ...]
    negative: bool
    embeds: Tensor


@dataclass(frozen=True)
class Conditioning:
    """What the text says to the denoiser.

    Attributes:
        embeds: [rows, T, D] token embeddings.
        extra: further named inputs of the family, each with a leading row axis (pooled
            embeddings).
        tokens: for every row, which characters its text positions stand for.
        encoded: from what it was made; None where nobody says. See `origin`.
    """

    embeds: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: tuple[tuple[Token, ...], ...] = ()
    encoded: Encoded | None = None

    @property
    def rows(self) -> int:
        """Length of the row axis."""
        return self.embeds.shape[0]

    @property
    def origin(self) -> Encoded | None:
        """From what it was made; None where nobody says, or where the embeddings were changed."""
        whole = self.encoded is not None and self.encoded.embeds is self.embeds
        return self.encoded if whole else None


@dataclass(frozen=True)
class Size:
    """Width and height of an image in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

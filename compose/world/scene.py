"""What stands in a picture: plain data, no drawing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from compose.world.vocabulary import ANIMALS


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Attributes:
        species: a word of `vocabulary.SPECIES`.
        colour: a word of `vocabulary.COLOURS`, the main body colour.
        pattern: a word of `vocabulary.PATTERNS`.
        second: colour word of the pattern, or None where the renderer picks its own (base
            patterns).
        accessory: a word of `vocabulary.ACCESSORIES`; only animals wear one.
        accessory_colour: colour word of the accessory, None when there is none.
        x, y: centre as fractions of width and height, origin top left.
        size: height as a fraction of the picture, about 0.35 to 0.8.
        flip: mirrored left to right; a split thing keeps its main colour on the left.
        tilt: rotation in degrees, about -8 to 8.
        pose: free draw in [0, 1) that varies limbs, tail, eyes' gaze.
    """

    species: str
    colour: str
    pattern: str = "plain"
    second: str | None = None
    accessory: str = "none"
    accessory_colour: str | None = None
    x: float = 0.5
    y: float = 0.62
    size: float = 0.6
    flip: bool = False
    tilt: float = 0.0
    pose: float = 0.5

    @property
    def animal(self) -> bool:
        """Whether it can wear something."""
        return self.species in ANIMALS

    def at(self, x: float, y: float, size: float) -> Thing:
        """The same thing elsewhere."""
        return replace(self, x=x, y=y, size=size)


@dataclass(frozen=True)
class Scene:
    """A picture to be drawn.

    Attributes:
        things: at most three, drawn in order.
        background: a word of `vocabulary.BACKGROUNDS`.
        style: a word of `vocabulary.STYLES`.
        light: free draw in [0, 1): time of day, tint.
        detail: seed of the background's small details (clouds, stars, where the sun stands).
    """

    things: tuple[Thing, ...] = field(default_factory=tuple)
    background: str = "meadow"
    style: str = "plain"
    light: float = 0.5
    detail: int = 0

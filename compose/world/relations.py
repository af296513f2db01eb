"""The grammar of places: how a caption says what stands on the left and what on the right.

Every template is blind to sides. ``{X}`` is the thing named first and ``{Y}`` the other one (small
letters: without determiner); ``{side}`` is where X stands, "left" or "right", ``{other}`` where Y
stands; ``{here}`` and ``{there}`` are the same as whole phrases ("on the left"). Which of the two
is named first is drawn evenly, so no word order hints at a side. ``{M}`` is the thing in the
middle, ``{mid}`` its place; ``{thing}`` and ``{fellow}`` are the bare nouns of X and Y ("cat").
"Its left" is the left of the picture, as its viewer sees it.

The held-out templates of `phrasings`, and their mirror images, cannot come out of these tables,
however articles, commas and "and" are set.
"""

from __future__ import annotations

SIDES = ("left", "right")
PLACED_HERE = (
    *("on the {side}",) * 6, *("on the {side} side",) * 2, "at the {side}", "to the {side}",
)  # fmt: skip
MIDDLE = ("in the middle", "in the middle", "in the center")

ONE_SIDE = (
    "{X} {here}", "{X} {here}", "{X} {here}", "{X} standing {here}", "{here} {X}", "{here} is {X}",
    "{X} is {here}",
)  # fmt: skip

# The place after the name.
_AFTER = (
    "{X} {here} and {Y} {there}", "{X} {here} and {Y} {there}", "{X} {here} and {Y} {there}",
    "{X} {here}, {Y} {there}", "{X} {here}, {Y} {there}", "{X} {here}, and {Y} {there}",
    "{x} {here} and {y} {there}", "{x} {here}, {y} {there}", "{X} {here} with {Y} {there}",
    "{X} {here}. {Y} {there}", "{X} standing {here} and {Y} standing {there}",
    "{X} is {here} and {Y} {there}", "{X} is {here} while {Y} is {there}",
    "{X} stands {here} and {Y} stands {there}",
)  # fmt: skip
# The place before the name.
_BEFORE = (
    "{here} {X} and {there} {Y}", "{here} {X} and {there} {Y}", "{here} {X}, {there} {Y}",
    "{here} {X}, {there} {Y}", "{here} {x}, {there} {y}", "{here}: {x}, {there}: {y}",
    "{here} is {X} and {there} is {Y}", "{here} is {X}, {there} is {Y}",
    "{here} is {X} and {there} {Y}", "{here} there is {X} and {there} there is {Y}",
    "{here} there is {X}. {there} there is {Y}", "{here} i see {X} and {there} {Y}",
    "{here} stands {X} and {there} stands {Y}", "{here} is {X}. {there} is {Y}",
    "{side} is {X} and {other} is {Y}", "{side} is {x}, {other} is {y}",
)  # fmt: skip
# Before the one and after the other.
_MIXED = (
    "{here} {X}, {Y} {there}", "{here} {X}, and {Y} {there}", "{here} {X} with {Y} {there}",
    "{here} is {X}, and {Y} is {there}", "{X} {here} and {there} {Y}",
    "{X} {here} and {there} {Y}", "{X} {here}, and {there} {Y}", "{X} {here}, {there} {Y}",
    "{X} {here}. {there} is {Y}", "{X} standing {here}, and {there} is {Y}",
    "{X} is {here}, and {there} is {Y}",
)  # fmt: skip
# One place is said, the other follows from it.
_ONE_SAID = (
    "{X}, and {there} {Y}", "{X}, and {there} {Y}", "{X}, {there} {Y}", "{X} and, {there}, {Y}",
    "{X}. {there} is {Y}", "{X}. {there} there is {Y}", "{X} and {there} there is {Y}",
    "{X}, with {Y} {there}", "{X} with {Y} {there}", "{X}, then {Y} {there}",
    "{X} {here} and {Y}", "{X} {here}, and {Y}", "{X} {here} and {Y} next to it",
    "{X} {here} next to {Y}", "{X} {here} beside {Y}", "{here} {X} and next to it {Y}",
    "{here} {X}, beside it {Y}", "{X} {here} and {Y} on the other side",
    "{here} {X}, on the other side {Y}", "{X} {here} and, on the other side, {Y}",
)  # fmt: skip
# The place of the first by the second.
_OF = (
    "{X} to the {side} of {Y}", "{X} to the {side} of {Y}", "{X} {side} of {Y}",
    "{X} {side} of {Y}", "{X} on the {side} of {Y}", "{X} on the {side} side of {Y}",
    "{X} standing to the {side} of {Y}", "{X} is to the {side} of {Y}", "{X} is {side} of {Y}",
    "{X} is on the {side} of {Y}", "{X} stands {side} of {Y}",
)  # fmt: skip
# The place of the second by the first, with its name said again or with a pronoun.
_OF_FIRST = (
    "{other} of {X} is {Y}", "{other} of {X} there is {Y}", "{other} of {X}, {Y}",
    "to the {other} of {X} is {Y}", "to the {other} of {X} there is {Y}",
    "to the {other} of {X} stands {Y}", "on the {other} of {X} is {Y}",
    "next to {X}, on the {other}, is {Y}",
)  # fmt: skip
_ITS = (
    "{X} with {Y} on its {other}", "{X} with {Y} on its {other}", "{X} with {Y} to its {other}",
    "{X} with {Y} to its {other}", "{X}, with {Y} to its {other}",
    "{X} with {Y} standing on its {other}", "{X} and on its {other} {Y}",
    "{X}, and on its {other} {Y}", "{X}, on its {other} {Y}", "{X} and, on its {other}, {Y}",
    "{X} and {Y} to its {other}", "{X}, {Y} on its {other}", "{X} and {other} of it {Y}",
    "{X} and, {other} of it, {Y}", "{X}, {other} of it {Y}", "{X}, {Y} {other} of it",
    "{X} and to the {other} of it {Y}", "{X}. to the {other} of it is {Y}",
    "{X} has {Y} on its {other}", "{X} has {Y} to its {other}", "{X}. on its {other} is {Y}",
    "{X}. on its {other} there is {Y}", "{X}. to its {other} stands {Y}",
    "{X}, and {Y} is to its {other}",
)  # fmt: skip
# A row, read from one of its ends.
_ROW = (
    "from {side} to {other} {X}, then {Y}", "from {side} to {other}: {x}, then {y}",
    "from {side} to {other} first {X} and then {Y}", "{X} and {Y} from {side} to {other}",
    "{X}, then {Y}, from {side} to {other}", "{X}, then to the {other} {Y}",
    "first {X}, then {Y} to the {other}", "first from the {side} {X}, second {Y}",
    "the first from the {side} is {X}, the second is {Y}",
    "{X} is first from the {side}, {Y} is second", "{X} {here}, then {Y}",
)  # fmt: skip
_ONES = (
    "the {side} one is {X} and the {other} one is {Y}", "the {side} one is {X}, the other one {Y}",
    "the one {here} is {X}, the one {there} is {Y}", "the one {here} is {X}, the other is {Y}",
)  # fmt: skip
# Each group is drawn as often as it stands here, then one of its templates.
TWO_PLACED = (
    _AFTER, _AFTER, _BEFORE, _BEFORE, _MIXED, _MIXED, _ONE_SAID, _ONE_SAID, _OF, _OF, _OF_FIRST,
    _ITS, _ITS, _ITS, _ROW, _ONES,
)  # fmt: skip
# The background is said between the two.
TWO_AROUND = (
    "{X} {where}, {Y} {there}", "{X} {where} with {Y} {there}", "{X} {where} and {there} is {Y}",
    "{X} {where}. {there} there is {Y}", "{here} {X} {where} and {there} {Y}",
    "{X} {here} {where} and {Y} {there}", "{X} {where}. on its {other} is {Y}",
    "{X} {where} with {Y} on its {other}", "{X} {where}, and {other} of it {Y}",
)  # fmt: skip
# Named in any order first, then placed by their nouns.
TWO_NOUNS = (
    "{A} and {B}, the {thing} {here} and the {fellow} {there}",
    "{A} and {B}, the {thing} {here}, the {fellow} {there}",
    "{A} and {B}, {here} the {thing} and {there} the {fellow}",
    "{A} and {B}, the {thing} {here}", "{A} and {B} with the {thing} {here}",
    "{A} and {B}, the {thing} is {here}", "{A} and {B}. the {thing} is {here}",
    "{A} and {B}, the {thing} {side} of the {fellow}",
    "{A} and {B}. the {thing} is to the {side} of the {fellow}",
    "{A} and {B}. {here} is the {thing}",
)  # fmt: skip

THREE_PLACED = (
    "{X} {here}, {M} {mid} and {Y} {there}", "{X} {here}, {M} {mid} and {Y} {there}",
    "{X} {here}, {M} {mid} and {Y} {there}", "{X} {here}, {M} {mid}, {Y} {there}",
    "{x} {here}, {m} {mid}, {y} {there}", "{M} {mid}, {X} {here} and {Y} {there}",
    "{X} {here}, {Y} {there} and {M} {mid}", "{X} {here}, {Y} {there} and {M} between them",
    "{M} between {X} {here} and {Y} {there}", "{M} {mid} with {X} {here} and {Y} {there}",
    "{here} {X}, {mid} {M} and {there} {Y}", "{here} {X}, {mid} {M}, {there} {Y}",
    "{mid} {M}, {here} {X} and {there} {Y}", "{here} is {X}, {mid} is {M} and {there} is {Y}",
    "{here}: {x}, {mid}: {m}, {there}: {y}", "{M} with {X} to its {side} and {Y} to its {other}",
    "{M}, {side} of it {X} and {other} of it {Y}", "{X} {side} of {M} and {Y} {there}",
    "from {side} to {other} {X}, {M} and {Y}", "from {side} to {other} {X}, {M} and {Y}",
    "from {side} to {other}: {x}, {m}, {y}", "from {side} to {other} {X}, then {M}, then {Y}",
    "{X}, {M} and {Y} from {side} to {other}", "first from the {side} {X}, second {M}, third {Y}",
    "the first from the {side} is {X}, the second is {M}, the third is {Y}",
)  # fmt: skip

# Things of one species, counted. Slots are bare attributes: "red with a blue hat".
TWO_ALIKE_PLACED = (
    "{n} {s}, one {x} {here} and one {y} {there}", "{n} {s}, one {x} {here} and one {y} {there}",
    "{n} {s}, the {side} one {x} and the {other} one {y}",
    "{n} {s}, the {side} one is {x} and the {other} one is {y}",
    "{n} {s}, {here} {x} and {there} {y}", "{n} {s}, one {x} with one {y} on its {other}",
    "{n} {s}, the one {here} {x}, the other one {y}", "{n} {s} from {side} to {other}, {x} and {y}",
)  # fmt: skip
TWO_ALIKE_FREE = (
    "{n} {s}, one {a} and one {b}",
    "{n} {s}, one {a}, one {b}",
    "{n} {s}, one is {a} and one is {b}",
)
THREE_ALIKE_PLACED = (
    "{n} {s}, one {x} {here}, one {m} {mid} and one {y} {there}",
    "{n} {s}, {here} {x}, {mid} {m} and {there} {y}",
    "from {side} to {other} {n} {s}: {x}, {m}, {y}",
)  # fmt: skip
THREE_ALIKE_FREE = ("{n} {s}, one {a}, one {b} and one {c}",)
# Tags; the first of each is the shortest.
TAGS_PLACED: dict[int, tuple[str, ...]] = {
    2: (
        "{x} {side}, {y} {other}, {tag}",
        "{tag}, {x} {here}, {y} {there}",
        "{here} {x}, {there} {y}, {tag}",
        "{tag}: {here} {x}, {there} {y}",
    ),
    3: ("{x} {side}, {m} middle, {y} {other}, {tag}", "{tag}: {here} {x}, {mid} {m}, {there} {y}"),
}

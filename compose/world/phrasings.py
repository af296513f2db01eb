"""The grammar of captions as plain tables: synonyms, backgrounds, sentences, held-out wordings.

Where things stand is said by the tables of `relations`.

Slots of a template: ``{a} {b} {c}`` are noun phrases in any order of mention, ``{l} {m} {r}`` the
things on the left, in the middle and on the right; a capital letter asks for a determiner ("a red
cat"), a small one for none ("red cat"). ``{where}`` is a place as an adverb ("on the beach"),
``{tag}`` as a noun ("beach"), ``{scene}`` as a noun with its article ("a beach"). The held-out
templates are never used in training: they measure how well the text encoder copes with wording it
was not drilled on, although every single word of them is known.
"""

from __future__ import annotations

SPECIES_NAMES: dict[str, tuple[str, ...]] = {
    "cat": ("cat", "cat", "cat", "kitty", "kitten"),
    "dog": ("dog", "dog", "dog", "puppy", "doggy"),
    "rabbit": ("rabbit", "rabbit", "bunny"),
    "bear": ("bear", "bear", "bear", "teddy", "teddy bear"),
    "bird": ("bird", "bird", "bird", "birdie"),
    "robot": ("robot", "robot", "robot", "bot", "android"),
    "car": ("car", "car", "car", "automobile", "auto"),
    "house": ("house", "house", "house", "cottage", "hut"),
    "tree": ("tree",),
    "mug": ("mug", "mug", "cup"),
    "ball": ("ball",),
}
PLURALS: dict[str, tuple[str, ...]] = {
    "cat": ("cats", "kittens"),
    "dog": ("dogs", "puppies"),
    "rabbit": ("rabbits", "bunnies"),
    "bear": ("bears",),
    "bird": ("birds",),
    "robot": ("robots",),
    "car": ("cars",),
    "house": ("houses",),
    "tree": ("trees",),
    "mug": ("mugs", "cups"),
    "ball": ("balls",),
}
TOYS = ("car", "robot", "ball", "house", "bear")
COLOUR_NAMES: dict[str, tuple[str, ...]] = {
    "gray": ("gray", "grey"),
    "purple": ("purple", "purple", "violet"),
}
PATTERN_ADJECTIVES: dict[str, tuple[str, ...]] = {
    "plain": ("plain",),
    "striped": ("striped", "striped", "stripy"),
    "spotted": ("spotted", "spotted", "spotty", "dotted"),
}
PATTERN_NOUNS: dict[str, tuple[str, ...]] = {
    "striped": ("stripes",),
    "spotted": ("spots", "spots", "dots"),
}
ACCESSORY_NAMES: dict[str, tuple[str, ...]] = {
    "hat": ("hat", "hat", "hat", "cap"),
    "crown": ("crown",),
    "scarf": ("scarf",),
}
WEARING = (
    "with {it}",
    "with {it}",
    "wearing {it}",
    "wearing {it}",
    "in {it}",
    "that wears {it}",
    "who wears {it}",
)

# How a colour and a pattern stand beside the noun. {k} colour, {p} adjective, {q} plural noun,
# {s} species.
BOTH_WORDS = (
    "{k} {p} {s}", "{k} {p} {s}", "{k} {p} {s}", "{p} {k} {s}", "{p} {k} {s}", "{k} and {p} {s}",
    "{k}, {p} {s}", "{k} {s} with {q}", "{k} {s} with {q}", "{k} {s} that has {q}",
    "{p} {s} in {k}", "{p} {s} that is {k}", "{s} that is {k} with {q}", "{s} that is {k} and {p}",
)  # fmt: skip
COLOUR_WORDS = ("{k} {s}",) * 12 + (
    "{s} that is {k}",
    "{k} colored {s}",
    "{k} coloured {s}",
    "{s} in {k}",
)
PATTERN_WORDS = ("{p} {s}", "{p} {s}", "{s} with {q}", "{s} that is {p}", "{s} that has {q}")
# After "one": two cats, one red with stripes and one blue.
ONE_BOTH = ("{k} {p}", "{p} {k}", "{k} with {q}", "{k} and {p}")
ONE_COLOUR = ("{k}",)

PLACES: dict[str, tuple[str, ...]] = {
    "meadow": (
        "in a meadow", "in the meadow", "on a meadow", "on the meadow", "on the grass",
        "in the grass", "in a field", "in the field", "on the lawn", "outside on the grass",
    ),
    "beach": (
        "on the beach", "on the beach", "on the beach", "on a beach", "at the beach",
        "at the seaside", "by the sea", "at the sea", "by the ocean", "on the shore",
        "on a sandy beach",
    ),
    "night": (
        "at night", "at night", "at night", "in the night", "under the stars", "under a starry sky",
        "under the night sky", "at midnight",
    ),
    "room": (
        "in a room", "in the room", "in the room", "inside a room", "indoors", "at home",
        "in the living room", "inside",
    ),
    "snow": (
        "in the snow", "in the snow", "in the snow", "on the snow", "in winter", "in the winter",
        "on a snowy day", "in a snowy land", "outside in the snow",
    ),
    "desert": (
        "in the desert", "in the desert", "in a desert", "in the dunes", "in a dry desert",
        "in a desert land", "in the dry land",
    ),
}  # fmt: skip
PLACE_TAGS: dict[str, tuple[str, ...]] = {
    "meadow": ("meadow", "meadow", "grass", "meadow background"),
    "beach": ("beach", "beach", "seaside", "sea", "beach background"),
    "night": ("night", "night", "night sky", "starry sky", "night background"),
    "room": ("room", "room", "living room", "room background"),
    "snow": ("snow", "snow", "winter", "snow background"),
    "desert": ("desert", "desert", "dunes", "desert background"),
}
PLACE_SCENES: dict[str, tuple[str, ...]] = {
    "meadow": ("a meadow", "a field", "a lawn"),
    "beach": ("a beach", "a sandy beach", "a shore"),
    "night": ("a night", "a night sky", "a starry night"),
    "room": ("a room", "a living room"),
    "snow": ("a snowy land", "a winter day", "a snowy day"),
    "desert": ("a desert", "a dry desert"),
}
# A sentence around what is seen. {body} holds the things.
SENTENCES = (
    "{body} {where}", "{body} {where}", "{body} {where}", "{body} {where}", "{body} {where}",
    "{body}, {where}", "{where}, {body}", "{where} {body}", "{body}, {tag}",
    "{body} with {scene} in the background", "{scene} with {body}", "{body}. {where}.",
)  # fmt: skip
PREFIXES = (
    "a picture of ", "a picture of ", "a drawing of ", "an illustration of ", "an image of ",
    "picture of ", "drawing of ", "a cartoon of ", "a photo of ", "a painting of ", "a scene with ",
    "there is ", "i see ",
)  # fmt: skip
STYLES = (
    "{text}, {style}", "{text}, {style}", "{text}, {style}", "{text} in {style}", "{style}, {text}",
    "{text} drawn in {style}", "{style} picture of {text}",
)  # fmt: skip

ONE_THING: tuple[str, ...] = ("{A}", "{A}", "{A}", "{a}", "one {a}")
ONE_CENTRE: tuple[str, ...] = ("{A} {mid}",)
TWO_FREE: tuple[str, ...] = (
    "{A} and {B}", "{A} and {B}", "{A} and {B}", "{a} and {b}", "{A}, {B}", "{A} next to {B}",
    "{A} next to {B}", "{A} beside {B}", "{A} with {B}", "{A} together with {B}", "{A} near {B}",
    "{A} is next to {B}", "one {a} and one {b}", "{A} and {B} side by side",
)  # fmt: skip
THREE_FREE: tuple[str, ...] = (
    "{A}, {B} and {C}", "{A}, {B} and {C}", "{a}, {b} and {c}", "{A}, {B}, {C}",
    "{A} and {B} and {C}", "{A} with {B} and {C}", "{A} next to {B} and {C}",
)  # fmt: skip
NUMBERS: dict[int, tuple[str, ...]] = {2: ("two", "two", "2"), 3: ("three", "three", "3")}
# Comma-separated tags.
TAGS: dict[int, tuple[str, ...]] = {
    1: ("{a}, {tag}",),
    2: ("{a}, {b}, {tag}",),
    3: ("{a}, {b}, {c}, {tag}",),
}

# One fixed, clear sentence: what an example or a test writes.
PLAIN: dict[int, str] = {
    1: "{A} {where}",
    2: "{L} on the left and {R} on the right {where}",
    3: "{L} on the left, {M} in the middle and {R} on the right {where}",
}
HELD_OUT: dict[int, tuple[str, ...]] = {
    1: (
        "{where} there is one {a}",
        "a picture with {A}, and the background is {scene}",
        "the {a} is standing {where}",
        "{tag} scene: {a}",
        "a scene {where}. i see {A}",
    ),
    2: (
        "left: {l}, right: {r}, {tag}",
        "there is {L}, and to its right {R}, {where}",
        "a scene {where} with {L} on the left, and {R} to its right",
        "{where}: {L} left and {R} right",
        "the {r} is on the right and the {l} is on the left, {where}",
        "on the right side there is {R}. on the left side, {L}. {where}",
        "i see two: on the left one {l}, on the right one {r}, {where}",
        "{scene} and, from left to right, {L} and {R}",
        "{tag}. {R} right. {L} left",
        "{L} standing {where}, and on the right {R}",
    ),
    3: (
        "left: {l}, middle: {m}, right: {r}, {tag}",
        "{where} {M} with {L} on its left and {R} on its right",
        "in the middle there is {M}, on its left {L} and on its right {R}, {where}",
    ),
}
# Held out as well, and written when the grammar above was done: nobody tuned it to these.
FRESH: dict[int, tuple[str, ...]] = {
    2: (
        "{scene}: {L} to the left, and to the right of it {R}",
        "to the left of {R} {where} i see {L}",
        "{where} is {L}, on its right side is {R}",
    )
}

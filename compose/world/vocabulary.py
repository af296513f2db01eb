"""The words of the embedded world: what can stand in a scene and in which colour.

Two circles. The *base* words are what the shipped UNet and text encoder were trained on. The
*concept* words are
known to the renderer, the VAE and the recognizer only: the base model never saw them, so an adapter
has something to teach. An adapter is trained on concept words and called by a rare token.
"""

from __future__ import annotations

Colour = tuple[int, int, int]

BASE_COLOURS: dict[str, Colour] = {
    "red": (214, 39, 40),
    "orange": (245, 130, 32),
    "yellow": (250, 214, 50),
    "green": (46, 160, 67),
    "blue": (38, 98, 217),
    "purple": (128, 52, 168),
    "pink": (246, 145, 178),
    "brown": (130, 82, 46),
    "black": (50, 50, 56),
    "white": (246, 246, 242),
    "gray": (148, 150, 156),
}
CONCEPT_COLOURS: dict[str, Colour] = {
    "teal": (20, 168, 160),
    "maroon": (120, 16, 46),
    "gold": (206, 158, 22),
    "lavender": (190, 170, 236),
    "lime": (166, 232, 40),
    "navy": (26, 40, 118),
}
COLOURS: dict[str, Colour] = {**BASE_COLOURS, **CONCEPT_COLOURS}

ANIMALS = ("cat", "dog", "rabbit", "bear", "bird", "robot")
BASE_OBJECTS = ("car", "house", "tree", "mug", "ball")
BASE_SPECIES = ANIMALS + BASE_OBJECTS
CONCEPT_SPECIES = ("rocket", "cake")
SPECIES = BASE_SPECIES + CONCEPT_SPECIES

BASE_PATTERNS = ("plain", "striped", "spotted")
CONCEPT_PATTERNS = ("split", "checker", "star", "heart", "bands", "patch")
PATTERNS = BASE_PATTERNS + CONCEPT_PATTERNS

BASE_ACCESSORIES = ("none", "hat", "crown", "scarf")
CONCEPT_ACCESSORIES = ("wizard", "cape")
ACCESSORIES = BASE_ACCESSORIES + CONCEPT_ACCESSORIES

BASE_BACKGROUNDS = ("meadow", "beach", "night", "room", "snow", "desert")
CONCEPT_BACKGROUNDS = ("candy", "moon")
BACKGROUNDS = BASE_BACKGROUNDS + CONCEPT_BACKGROUNDS

BASE_STYLES = ("plain",)
CONCEPT_STYLES = ("sticker", "sunwash", "blueprint")
STYLES = BASE_STYLES + CONCEPT_STYLES

# Rare tokens: one token each, never in a base caption. Shipped concepts, then spare names, then
# users' own.
CONCEPT_TRIGGERS = (
    "mochi",
    "ember",
    "biscuit",
    "domino",
    "juniper",
    "bolt",
    "wizzo",
    "capely",
    "sticko",
    "sunvo",
    "blupri",
    "candia",
    "lunara",
    "rocko",
    "cakely",
)
SPARE_TRIGGERS = (
    "pippin",
    "zuzu",
    "kiko",
    "tango",
    "waffle",
    "nimbus",
    "pesto",
    "quill",
    "sorrel",
    "tofu",
    "umber",
    "vesper",
    "willow",
    "yuki",
    "ziggy",
    "acorn",
    "basil",
    "cosmo",
    "dusty",
    "echo",
    "fable",
    "gizmo",
    "hazel",
    "indy",
    "jinx",
    "koda",
    "lotus",
    "marlo",
    "nori",
    "opal",
    "plum",
    "remy",
    "saffi",
)
USER_TRIGGERS = tuple(f"<v{i}>" for i in range(1, 17))
RARE_TOKENS = CONCEPT_TRIGGERS + SPARE_TRIGGERS + USER_TRIGGERS

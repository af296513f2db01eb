"""Reading the keys of a concept file; errors name the file, the key and the words that would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from compose.errors import ConceptError, nearest
from compose.world import vocabulary as words_of
from compose.world.drawing.palette import rgb
from compose.world.sampling import distinct

_THING_KEYS = ("species", "colour", "pattern", "second", "accessory", "accessory_colour")


def read_mapping(path: Path) -> Mapping[str, Any]:
    """The top level of a YAML file.

    Raises:
        ConceptError: no such file, no YAML, or no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConceptError(
            f"{path}: cannot be read ({error}); give the path of a concept's YAML file"
        ) from error
    except yaml.YAMLError as error:
        raise ConceptError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, Mapping):
        raise ConceptError(
            f"{path}: holds {type(content).__name__}; expected keys such as name, trigger, category"
        )
    return content


@dataclass(frozen=True)
class Reader:
    """One mapping of a concept file.

    Attributes:
        given: its keys and values.
        where: file and part, for messages.
    """

    given: Mapping[str, Any]
    where: str

    def no_other_keys(self, known: Sequence[str]) -> None:
        """Refuse keys that mean nothing here."""
        for key in self.given:
            if key not in known:
                raise ConceptError(
                    f"{self.where}: key {key!r} is unknown; {nearest(str(key), known)}"
                )

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self.given.get(key, default)
        if not isinstance(value, str):
            raise ConceptError(f"{self.where}: {key} is {value!r}; expected text")
        return value

    def word(self, key: str, known: Sequence[str], default: str | None = None) -> str:
        """One of the known words."""
        value = self.given.get(key, default)
        if value is None:
            raise ConceptError(
                f"{self.where}: {key} is missing; expected one of {', '.join(known[:16])}"
            )
        if value not in known:
            raise ConceptError(f"{self.where}: {key} is {value!r}; {nearest(str(value), known)}")
        return str(value)

    def colour(self, key: str) -> str | None:
        """A colour word or a code such as #20a8a0; None when the key is absent."""
        value = self.given.get(key)
        if value is None:
            return None
        try:
            rgb(str(value))
        except (KeyError, ValueError) as error:
            hint = nearest(str(value), words_of.COLOURS)
            raise ConceptError(
                f"{self.where}: {key} is {value!r}; {hint}, or a code such as '#20a8a0'"
            ) from error
        return str(value)

    def number(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number within bounds."""
        value = self.given.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ConceptError(
                f"{self.where}: {key} is {value!r}; expected a whole number from {low} to {high}"
            )
        return value

    def part(self, key: str) -> Reader:
        """A mapping inside this one."""
        value = self.given.get(key)
        if not isinstance(value, Mapping):
            raise ConceptError(
                f"{self.where}: {key} is {value!r}; expected keys of its own, such as colour"
            )
        return Reader(value, f"{self.where}: {key}")

    def folder(self, key: str, base: Path) -> Path:
        """An existing folder inside `base`."""
        value = self.text(key, "")
        folder = (base / value).resolve()
        if not value or not folder.is_relative_to(base.resolve()):
            raise ConceptError(f"{self.where}: {key} is {value!r}; expected a folder inside {base}")
        if not folder.is_dir():
            raise ConceptError(
                f"{self.where}: {key} is {value!r}; {folder} is no folder, put the pictures there"
            )
        return folder


def read_thing(at: Reader, *, animal: bool) -> dict[str, str]:
    """Looks of a character (an animal) or of an object (anything).

    Raises:
        ConceptError: a word that does not exist, or looks that cannot be drawn together.
    """
    at.no_other_keys(_THING_KEYS)
    species = at.word("species", words_of.ANIMALS if animal else words_of.SPECIES)
    looks = {"species": species, "pattern": at.word("pattern", words_of.PATTERNS, "plain")}
    for key in ("colour", "second", "accessory_colour"):
        value = at.colour(key)
        if value is not None:
            looks[key] = value
    if "colour" not in looks:
        raise ConceptError(
            f"{at.where}: colour is missing; expected one of {', '.join(words_of.COLOURS)}"
        )
    if looks["pattern"] == "plain" and "second" in looks:
        raise ConceptError(
            f"{at.where}: second is {looks['second']!r}, but pattern is plain; name a pattern"
        )
    if "second" in looks and not distinct(looks["colour"], looks["second"]):
        raise ConceptError(
            f"{at.where}: second is {looks['second']!r}, too close to the colour "
            f"{looks['colour']!r} to be seen; take one that stands out"
        )
    looks["accessory"] = at.word("accessory", words_of.ACCESSORIES, "none")
    if looks["accessory"] != "none" and species not in words_of.ANIMALS:
        raise ConceptError(
            f"{at.where}: accessory is {looks['accessory']!r}, but a {species} wears nothing"
        )
    if (looks["accessory"] == "none") == ("accessory_colour" in looks):
        raise ConceptError(f"{at.where}: give accessory and accessory_colour together, or neither")
    return looks


def read_accessory(at: Reader) -> dict[str, str]:
    """Kind and colour of a piece of clothing.

    Raises:
        ConceptError: a word that does not exist, or no colour.
    """
    at.no_other_keys(("kind", "colour"))
    kinds = tuple(kind for kind in words_of.ACCESSORIES if kind != "none")
    colour = at.colour("colour")
    if colour is None:
        raise ConceptError(
            f"{at.where}: colour is missing; expected one of {', '.join(words_of.COLOURS)}"
        )
    return {"kind": at.word("kind", kinds), "colour": colour}

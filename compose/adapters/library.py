"""Folders of adapters, listed by their headers and searched by name."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from compose.adapters.bases import base_of_file
from compose.adapters.hashes import Hashes, file_hashes
from compose.adapters.header import note_paths, read_facts
from compose.adapters.outline import display_name, read_outline, weights_path
from compose.adapters.safe import shown
from compose.adapters.scaling import CONFIG_NAME, WEIGHTS_NAME
from compose.errors import AdapterFormatError, AdapterNotFoundError, nearest

ENVIRONMENT = "LORA_COMPOSE_ADAPTERS"
"""Environment variable with further folders, separated as in PATH."""
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class AdapterEntry:
    """An adapter that can be loaded, as far as its header and notes tell.

    Attributes:
        name: how it is called: the name of its file, after that of its folder inside the library.
        path: the file, or the folder of a PEFT adapter.
        category: character, clothing, style, background, object or other.
        triggers: words that call what it has learned.
        base: sd15, sd2, sdxl, sd3, flux, flux2, embedded, else what the file says; empty when
            unknown.
        rank: largest rank.
        sites: number of modules it changes.
        description: free text.
        default_weight: weight its author recommends.
        made_for: composition method that it was trained for; empty for none in particular.
        tags: free words, frequent ones first.
        fingerprint: of the base it was trained on, where it was written down.
        layout: spelling of its names.
        size: in bytes.
        warnings: what could not be understood.
    """

    name: str
    path: Path
    category: str = "other"
    triggers: tuple[str, ...] = ()
    base: str = ""
    rank: int = 0
    sites: int = 0
    description: str = ""
    default_weight: float = 1.0
    made_for: str = ""
    tags: tuple[str, ...] = ()
    fingerprint: str = ""
    layout: str = ""
    size: int = 0
    warnings: tuple[str, ...] = ()

    @cached_property
    def hashes(self) -> Hashes:
        """Hashes of the file, computed when first asked for."""
        return file_hashes(self.path)


def read_entry(path: str | Path, name: str | None = None) -> AdapterEntry:
    """Describe an adapter file by its header and notes.

    Args:
        path: a safetensors file, or a PEFT folder.
        name: how it is called; None takes the name of the file.

    Raises:
        AdapterFormatError: it cannot be read as a plain LoRA.
    """
    outline = read_outline(path)
    facts = read_facts(outline.place, outline.name, outline.header.metadata)
    return AdapterEntry(
        name=name or outline.name,
        path=outline.place,
        category=facts.category,
        triggers=facts.triggers,
        base=base_of_file(outline, facts.base) or facts.base,
        rank=max(pair.rank for pair in outline.pairs.values()),
        sites=len(outline.pairs),
        description=facts.description,
        default_weight=facts.default_weight,
        made_for=facts.made_for,
        tags=facts.tags,
        fingerprint=facts.fingerprint,
        layout=outline.layout,
        size=outline.header.size,
        warnings=facts.warnings,
    )


@dataclass(frozen=True)
class _Listing:
    """What lies in the folders, by name only.

    Attributes:
        paths: name to file; of equal names the first folder's.
        hidden: files that an equal name before them hides.
        outside: links that leave their folder.
    """

    paths: dict[str, Path] = field(default_factory=dict)
    hidden: list[Path] = field(default_factory=list)
    outside: list[Path] = field(default_factory=list)


class AdapterLibrary:
    """Adapters in some folders and the folders inside them.

    Folders are looked through anew at every call, so files that come and go are seen. Headers that
    were read are kept as long as their file stays the same.

    Args:
        folders: where adapters lie; of two adapters with one name the earlier folder's counts.
    """

    def __init__(self, folders: Sequence[str | Path]) -> None:
        self.folders = tuple(Path(folder) for folder in folders)
        self._read: dict[tuple[str, tuple[object, ...]], AdapterEntry | str] = {}

    @classmethod
    def default(cls) -> AdapterLibrary:
        """The shipped adapters, the folders of $LORA_COMPOSE_ADAPTERS, and ./adapters if there."""
        shipped = Path(__file__).resolve().parents[1] / "world" / "adapters"
        named = [Path(part) for part in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if part]
        here = Path("adapters")
        return cls([shipped, *named, *([here] if here.is_dir() else [])])

    def entries(self) -> tuple[AdapterEntry, ...]:
        """Every adapter that can be read, sorted by name."""
        return tuple(e for e in self._all().values() if isinstance(e, AdapterEntry))

    @property
    def broken(self) -> tuple[tuple[Path, str], ...]:
        """Files that are no adapter, or hidden, or links that leave, each with the reason."""
        listing = self._list()
        reasons = [(listing.paths[n], m) for n, m in self._all().items() if isinstance(m, str)]
        hidden = "is hidden by an adapter of the same name in an earlier folder; rename one of them"
        outside = f"is a link out of its folder; name the real folder in ${ENVIRONMENT}"
        for paths, reason in ((listing.hidden, hidden), (listing.outside, outside)):
            reasons += [(path, f"{shown(path, 400)}: {reason}") for path in paths]
        return tuple(reasons)

    def find(self, name_or_path: str | Path, *, paths: bool = True) -> AdapterEntry:
        """Find an adapter by name, or take a file as it is.

        Args:
            name_or_path: a name, with or without its folder and the ending .safetensors, in small
                or capital letters; or the path of a file.
            paths: whether a path outside the library will do. Servers say no.

        Raises:
            AdapterNotFoundError: nothing, or more than one adapter, is called so.
            AdapterFormatError: it cannot be read.
        """
        text = str(name_or_path)
        path = Path(text)
        there = paths and (os.path.isfile(path) or os.path.isfile(path / WEIGHTS_NAME))
        if there and (path.is_absolute() or len(path.parts) > 1 or text.endswith(_SUFFIX)):
            return read_entry(path)
        name = _plain(text).removesuffix(_SUFFIX)
        listing = self._list().paths
        found = _look_up(name, listing)
        if found is not None:
            return read_entry(listing[found], found)
        if there:
            return read_entry(path)
        raise self._not_found(text, name, listing)

    def _not_found(self, text: str, name: str, listing: dict[str, Path]) -> AdapterNotFoundError:
        if ".." in name.split("/") or name.startswith("/"):
            return AdapterNotFoundError(
                f"{shown(text)} is neither a file nor a name; expected the name of an adapter in"
                " the library, without '..', or the path of an existing file; check it"
            )
        where = ", ".join(shown(folder, 200) for folder in self.folders) or "no folder"
        hint = nearest(name, listing) if listing else f"put some there or set ${ENVIRONMENT}"
        return AdapterNotFoundError(
            f"no adapter is called {shown(text)}; expected one that lies in {where}; {hint}"
        )

    def _all(self) -> dict[str, AdapterEntry | str]:
        """Name to entry, or to the reason why there is none; sorted."""
        known, kept = self._read, {}
        found: dict[str, AdapterEntry | str] = {}
        for name, path in sorted(self._list().paths.items(), key=lambda item: item[0].casefold()):
            stamp = _stamp(path)
            read = known.get((name, stamp)) or _entry_or_reason(path, name)
            found[name] = kept[name, stamp] = read
        self._read = kept
        return found

    def _list(self) -> _Listing:
        listing = _Listing()
        for folder in self.folders:
            for name, path in _walk(folder, listing):
                if listing.paths.setdefault(name, path) != path:
                    listing.hidden.append(path)
        return listing


def _plain(name: str) -> str:
    """A name in one spelling: composed characters, slashes between folders."""
    return unicodedata.normalize("NFC", name).replace("\\", "/")


def _walk(folder: Path, listing: _Listing) -> Iterator[tuple[str, Path]]:
    """Names and paths of the adapters in a folder. Links that leave it are only noted."""
    root = folder.resolve()
    for at, folders, files in os.walk(folder):
        here = Path(at)
        for name in sorted(folders):
            if (here / name).is_symlink() and not (here / name).resolve().is_relative_to(root):
                listing.outside.append(here / name)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = here.relative_to(folder)
        if WEIGHTS_NAME in files and CONFIG_NAME in files:
            found = [(inside if inside.parts else Path(root.name), here, here / WEIGHTS_NAME)]
            folders.clear()
        else:
            names = sorted(n for n in files if n.endswith(_SUFFIX) and not n.startswith("."))
            found = [(inside / n.removesuffix(_SUFFIX), here / n, here / n) for n in names]
        for called, path, weights in found:
            if weights.resolve().is_relative_to(root):
                yield _plain(called.as_posix()), path
            else:
                listing.outside.append(path)


def _look_up(name: str, listing: Mapping[str, Path]) -> str | None:
    """The one listed name that is meant: exact, then in any case, then without its folder."""
    if name in listing:
        return name
    folded = name.casefold()
    tests: tuple[Callable[[str], bool], ...] = (
        lambda known: known.casefold() == folded,
        lambda known: known.rpartition("/")[2] == name,
        lambda known: known.rpartition("/")[2].casefold() == folded,
    )
    for test in tests:
        found = [known for known in listing if test(known)]
        if len(found) > 1:
            raise AdapterNotFoundError(
                f"{shown(name)} could be {' or '.join(sorted(found)[:6])}; expected a name that is"
                " one adapter's alone; write it with its folder"
            )
        if found:
            return found[0]
    return None


def _stamp(path: Path) -> tuple[object, ...]:
    """Changes whenever the file or a note beside it does."""
    files = note_paths(path, display_name(weights_path(path)))
    stats: list[object] = [path]
    for file in (weights_path(path), path / CONFIG_NAME, *files):
        try:
            stat = file.stat()
            stats += [stat.st_mtime_ns, stat.st_size]
        except OSError:
            stats.append(None)
    return tuple(stats)


def _entry_or_reason(path: Path, name: str) -> AdapterEntry | str:
    try:
        return read_entry(path, name)
    except AdapterFormatError as error:
        return str(error)

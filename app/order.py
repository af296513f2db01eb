"""From flags to a checked request: everything that can be refused before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compose.adapters.library import AdapterLibrary
from compose.errors import RequestError, nearest
from compose.fusion import method, methods
from compose.fusion.merge import Merge
from compose.method import CompositionMethod
from compose.models.options import USUAL, LoadOptions
from compose.prompt import Prompt, parse_prompt, refuse_tags
from compose.regions import Region
from compose.request import AdapterUse, Request

from .flags import read_bind, read_lora, read_mask, read_region, read_size


@dataclass(frozen=True)
class Setting:
    """With what a request is carried out.

    Attributes:
        model: "embedded", a folder, a file or a hub id.
        device, dtype: as for `Composer.load`.
        offline: hub models come from the cache only.
        options: as for `Composer.load`; its settings may be a hub id too.
    """

    model: str = "embedded"
    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False
    options: LoadOptions = USUAL


@dataclass(frozen=True)
class Column:
    """One request and how its pictures are labelled in file names and grids.

    Attributes:
        label: name of a method or of an adapter, or "base".
        request: the request.
        method: whether all adapters are combined; else it is there to compare with.
        optional: left out, and said so, when the request cannot be carried out.
    """

    label: str
    request: Request
    method: bool = True
    optional: bool = False


def read_request(
    prompt: str,
    *,
    negative: str,
    loras: Sequence[str],
    size: str | None,
    steps: int,
    guidance: float | None,
    true_cfg: float | None = None,
    clip_skip: int | None = None,
    scheduler: str | None,
    seeds: tuple[int, ...],
    regions: Sequence[str] = (),
    masks: Sequence[str] = (),
    binds: Sequence[str] = (),
) -> Request:
    """The request without its method. Adapters come from tags first, then from flags.

    Raises:
        RequestError: something that makes no sense.
        AdapterError: an adapter that is not there or cannot be read.
    """
    parsed = read_texts(prompt, negative)
    given = (*parsed.adapters, *(read_lora(text) for text in loras))
    adapters = _placed(given, regions, masks, binds)
    request = Request(
        prompt=parsed.text,
        negative=negative,
        adapters=adapters,
        size=read_size(size),
        steps=steps,
        guidance=guidance,
        true_cfg=true_cfg,
        clip_skip=clip_skip,
        scheduler=scheduler,
        seeds=seeds,
    )
    refuse_twice(adapters, AdapterLibrary.default())
    return request


def read_texts(prompt: str, negative: str) -> Prompt:
    """The prompt taken apart; `negative` may have no tags.

    Raises:
        RequestError: bytes that are no text, or a tag that is not understood.
    """
    for what, text in (("prompt", prompt), ("negative prompt", negative)):
        _check_text(what, text)
    refuse_tags(negative, "the negative prompt")
    return parse_prompt(prompt)


def _check_text(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(f"the {what} holds bytes that are no text; expected UTF-8") from None


def refuse_twice(adapters: Iterable[AdapterUse], library: AdapterLibrary) -> None:
    """Look every adapter up, and refuse two names for the same file.

    Raises:
        AdapterError: one that is not there or cannot be read.
        RequestError: two for the same file.
    """
    seen: dict[Path, str] = {}
    for use in adapters:
        path = library.find(use.name).path.resolve()
        if path in seen:
            raise RequestError(
                f"adapters {seen[path]} and {use.name} are the same file; give it once, with one"
                " weight"
            )
        seen[path] = use.name


def _placed(
    adapters: Sequence[AdapterUse],
    regions: Iterable[str],
    masks: Iterable[str],
    binds: Iterable[str],
) -> tuple[AdapterUse, ...]:
    """Adapters with what ``--region``, ``--mask`` and ``--bind`` say of them."""
    names = [use.name for use in adapters]
    places = [read_region(text, names) for text in regions]
    drawn = [read_mask(text, names) for text in masks]
    words = [read_bind(text, names) for text in binds]
    _refuse_again("--region or --mask", [name for name, _ in (*places, *drawn)])
    _refuse_again("--bind", [name for name, _ in words])
    where: dict[str, Region] = {**dict(places), **dict(drawn)}
    called = dict(words)
    return tuple(
        replace(use, region=where.get(use.name), trigger=called.get(use.name)) for use in adapters
    )


def _refuse_again(flag: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise RequestError(
                f"{flag} was given {names.count(name)} times for {name}; expected it once"
            )


def one_column(request: Request, name: str, fields: Mapping[str, str]) -> list[Column]:
    """The request with one method.

    Raises:
        UnknownMethodError: a method that does not exist.
        RequestError: a bad field, or regions that the method has no use for.
    """
    kind = method(name)
    _check_places(request, [kind])
    return [Column(name, replace(request, method=kind.parse(fields)))]


def grid_columns(request: Request, wanted: str, fields: Mapping[str, str]) -> list[Column]:
    """The columns of a grid: the base alone, every adapter alone, every method with all of them.

    Regions go to the methods that need them; the others work on the whole picture.

    Args:
        request: with all adapters.
        wanted: names of methods with commas between, or "all" for those that can do with so many
            adapters and need nothing else.
        fields: given to every method that has such a field.

    Raises:
        UnknownMethodError: a method that does not exist.
        RequestError: a field that none of the methods has, a bad value, or regions that none of
            the methods has a use for.
    """
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    everything = wanted.strip() == "all"
    if everything:
        names = [n for n, m in methods().items() if _able(m.minimum, m.needs, request)]
    kinds = {name: method(name) for name in names}
    if not kinds:
        raise RequestError("--grid names no method; expected some, such as merge,switch, or all")
    known = {name: {p.name for p in kind.params()} for name, kind in kinds.items()}
    every = set().union(*known.values())
    for field in fields:
        if field not in every:
            raise RequestError(
                f"no method of --grid has a field {field!r}; {nearest(field, every)}"
            )
    own = {name: {f: v for f, v in fields.items() if f in known[name]} for name in kinds}
    chosen = [kind.parse(own[name]) for name, kind in kinds.items()]
    return compared(request, chosen, optional=everything)


def compared(
    request: Request, chosen: Sequence[CompositionMethod], *, optional: bool = False
) -> list[Column]:
    """The columns of a comparison: the base alone, every adapter alone, then some methods.

    Args:
        request: with all adapters. Regions go to the methods that need them.
        chosen: the methods.
        optional: whether a method that cannot be carried out is left out.

    Raises:
        RequestError: regions that none of the methods has a use for.
    """
    _check_places(request, [type(method) for method in chosen])
    everywhere = replace(request, adapters=tuple(replace(a, region=None) for a in request.adapters))
    plain = replace(everywhere, method=Merge())
    columns = [Column("base", replace(plain, adapters=()), method=False)]
    for use in plain.adapters:
        columns.append(Column(_short(use.name), replace(plain, adapters=(use,)), method=False))
    for kind in chosen:
        suited = request if "regions" in kind.needs else everywhere
        columns.append(Column(kind.name, replace(suited, method=kind), optional=optional))
    return columns


def _able(minimum: int, needs: frozenset[str], request: Request) -> bool:
    placed = bool(request.regions) or "regions" not in needs
    return len(request.adapters) >= minimum and placed


def _check_places(request: Request, kinds: Iterable[type[CompositionMethod]]) -> None:
    """Refuse regions that no method has a use for."""
    if not request.regions or any("regions" in kind.needs for kind in kinds):
        return
    name, region = next(iter(request.regions.items()))
    able = ", ".join(n for n, kind in methods().items() if "regions" in kind.needs)
    raise RequestError(
        f"a region was given for {name} ({region}), but {' and '.join(k.name for k in kinds)} works"
        f" on the whole picture; expected a method that places adapters: {able}, or a product with"
        " it, such as tara*regional"
    )


def _short(name: str) -> str:
    return Path(name).name.removesuffix(".safetensors")

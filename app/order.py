"""From flags to a checked request: everything that can be refused before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compose.adapters.library import AdapterLibrary
from compose.errors import RequestError, nearest
from compose.fusion import method, methods
from compose.models.options import USUAL, LoadOptions
from compose.prompt import parse_prompt, refuse_tags
from compose.request import AdapterUse, Request

from .flags import read_lora, read_mask, read_region, read_size


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
) -> Request:
    """The request without its method. Adapters come from tags first, then from flags.

    Raises:
        RequestError: something that makes no sense.
        AdapterError: an adapter that is not there or cannot be read.
    """
    for what, text in (("prompt", prompt), ("negative prompt", negative)):
        _check_text(what, text)
    refuse_tags(negative, "the negative prompt")
    parsed = parse_prompt(prompt)
    adapters = (*parsed.adapters, *(read_lora(text) for text in loras))
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
    _refuse_twice(adapters)
    return request


def _check_text(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(f"the {what} holds bytes that are no text; expected UTF-8") from None


def _refuse_twice(adapters: Iterable[AdapterUse]) -> None:
    """Look every adapter up, and refuse two names for the same file."""
    library = AdapterLibrary.default()
    seen: dict[Path, str] = {}
    for use in adapters:
        path = library.find(use.name).path.resolve()
        if path in seen:
            raise RequestError(
                f"adapters {seen[path]} and {use.name} are the same file; give it once, with one"
                " weight"
            )
        seen[path] = use.name


def check_places(
    regions: Iterable[str], masks: Iterable[str], adapters: Sequence[AdapterUse], chosen: str
) -> None:
    """Check ``--region`` and ``--mask``, then refuse them where the method has no use for them.

    Raises:
        RequestError: malformed, for an adapter that was not given, or of no use.
    """
    names = [use.name for use in adapters]
    given = [read_region(text, names) for text in regions] + [
        read_mask(text, names) for text in masks
    ]
    if not given:
        return
    able = sorted(name for name, kind in methods().items() if "regions" in kind.needs)
    if chosen not in able:
        raise RequestError(
            f"{given[0]} was given, but method {chosen} works on the whole picture; expected a"
            f" method that places adapters: {', '.join(able) or 'there is none yet'}"
        )
    raise RequestError(f"{given[0]} was given; regions cannot be handed to methods yet, so drop it")


def one_column(request: Request, name: str, fields: Mapping[str, str]) -> list[Column]:
    """The request with one method."""
    return [Column(name, replace(request, method=method(name).parse(fields)))]


def grid_columns(request: Request, wanted: str, fields: Mapping[str, str]) -> list[Column]:
    """The columns of a grid: the base alone, every adapter alone, every method with all of them.

    Args:
        request: with all adapters.
        wanted: names of methods with commas between, or "all" for those that can do with so many
            adapters and need nothing else.
        fields: given to every method that has such a field.

    Raises:
        UnknownMethodError: a method that does not exist.
        RequestError: a field that none of the methods has, or a bad value.
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
    columns = [Column("base", replace(request, adapters=()), method=False)]
    for use in request.adapters:
        columns.append(Column(_short(use.name), replace(request, adapters=(use,)), method=False))
    for name, kind in kinds.items():
        own = {field: value for field, value in fields.items() if field in known[name]}
        asked = replace(request, method=kind.parse(own))
        columns.append(Column(name, asked, optional=everything))
    return columns


def _able(minimum: int, needs: frozenset[str], request: Request) -> bool:
    return len(request.adapters) >= minimum and "regions" not in needs


def _short(name: str) -> str:
    return Path(name).name.removesuffix(".safetensors")

"""Why an adapter does not fit a model, in words: by the name of its base wherever that is known."""

from __future__ import annotations

from compose.adapters.bases import (
    Shapes,
    bases_of_file,
    bases_of_model,
    file_evidence,
    file_in_words,
    model_evidence,
    model_in_words,
)
from compose.adapters.reading import AdapterFile, RawFactors
from compose.adapters.safe import shown
from compose.adapters.tables import Modules, Target
from compose.errors import AdapterMismatchError


def check_base(file: AdapterFile, modules: Modules) -> None:
    """Refuse a file that was made for another base, before any of its modules is looked at.

    Raises:
        AdapterMismatchError: names, widths or the file's own words show another base.
    """
    shapes = _shapes(modules)
    made, here = bases_of_file(file.outline, file.facts.base), bases_of_model(shapes)
    reads, has = file_evidence(file.outline).cross, model_evidence(shapes).cross
    other_names = made and here and not set(made) & set(here)
    other_width = reads is not None and has is not None and reads != has
    if not other_names and not other_width:
        return
    words = file_in_words(file.outline, file.facts.base)
    mine = model_in_words(shapes)
    widths = f" ({reads} wide text, not {has})" if other_width and not other_names else ""
    raise AdapterMismatchError(
        f"{shown(file.path, 400)}: is a LoRA for {words}{widths}; expected one for {mine}, as this"
        " model is; use another adapter, or the model that it was made for"
    )


def misfit(
    file: AdapterFile, raw: RawFactors, target: Target, modules: Modules
) -> AdapterMismatchError:
    """The error for a module of another shape."""
    first = modules[target.component][target.parts[0].path]
    verb = "has" if len(target.parts) == 1 else "have together"
    return AdapterMismatchError(
        f"{shown(file.path, 400)}: {shown(raw.pair.stem)} changes weights of shape"
        f" {list(raw.pair.shape)}; expected {[target.rows, *first.shape[1:]]} as"
        f" {' and '.join(target.sites)} {verb}; {_advice(file, modules)}"
    )


def nothing_matched(file: AdapterFile, modules: Modules) -> AdapterMismatchError:
    """The error for a file without a module of the model."""
    first = ", ".join(shown(stem, 80) for stem in list(file.modules)[:2])
    return AdapterMismatchError(
        f"{shown(file.path, 400)}: none of its {len(file.modules)} modules (such as {first}) is in"
        f" this model; expected names of {' or '.join(modules)}; {_advice(file, modules)}"
    )


def ambiguous(file: AdapterFile, stem: str, found: list[Target]) -> AdapterMismatchError:
    """The error for a name that could be several modules."""
    places = " or ".join(" and ".join(target.sites) for target in found[:4])
    return AdapterMismatchError(
        f"{shown(file.path, 400)}: {shown(stem)} could be {places}; expected a name that is one"
        " of them; save the adapter with the component's name in front of every path"
    )


def _advice(file: AdapterFile, modules: Modules) -> str:
    """For which base the file was made, which one this is, and what to do."""
    made = file_in_words(file.outline, file.facts.base)
    here = model_in_words(_shapes(modules))
    if made == here:
        return f"both seem to be {here}, but of different builds: use an adapter made for this one"
    return f"it seems made for {made} and this is {here}: use an adapter or a model that fits"


def _shapes(modules: Modules) -> Shapes:
    return {c: {path: m.shape for path, m in paths.items()} for c, paths in modules.items()}

"""What a text encoder will not see or has never learned, and what a model has no place for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from compose.adapters.adapter import AdapterSet
from compose.adapters.formats import KeyReport
from compose.adapters.triggers import has_trigger
from compose.models.family import Family
from compose.request import Request
from compose.run import Run
from compose.text.weighting import plain_text
from compose.world.captions import unknown_words


def unmatched_warnings(adapters: AdapterSet, reports: Sequence[KeyReport]) -> Iterator[str]:
    """One line for every adapter of which the model lacks some modules.

    Args:
        adapters: K adapters.
        reports: [K] what became of the keys of their files.
    """
    for adapter, report in zip(adapters, reports, strict=True):
        if report.unmatched:
            some = ", ".join(report.unmatched[:3])
            count = len(report.unmatched)
            gaps = f"; {report.gaps()}" if report.lacking else ""
            fit = f"{count} of its keys fit nothing in this model ({some})"
            yield f"adapter {adapter.name}: {fit}{gaps}"


def wording_warnings(request: Request, family: Family, adapters: AdapterSet) -> Iterator[str]:
    """Check the texts of a request against the model and the adapters.

    Args:
        request: its prompt and negative prompt.
        family: the model.
        adapters: the adapters of the request, whose triggers should be in the prompt.

    Yields:
        One warning each, one line.
    """
    for what, text in (("prompt", request.prompt), ("negative prompt", request.negative)):
        lost = family.beyond_the_end(text)
        if lost:
            yield f"the {what} is too long for the text encoders, which will not see {lost!r}"
        if family.card.words:
            yield from _unknown(what, text, family.card.words, adapters)
    for use, adapter in zip(request.adapters, adapters, strict=True):
        if use.region is not None and "streams" in request.method.needs:
            continue  # its words are said in its region, whether they are in the prompt or not
        if adapter.triggers and not any(has_trigger(request.prompt, t) for t in adapter.triggers):
            wanted = " or ".join(repr(t) for t in adapter.triggers[:4])
            yield (
                f"adapter {adapter.name}: its trigger {wanted} is not in the prompt, so it may"
                " not show"
            )


def _unknown(what: str, text: str, known: Collection[str], adapters: AdapterSet) -> Iterator[str]:
    taught = {word for a in adapters for trigger in a.triggers for word in trigger.lower().split()}
    unknown = [word for word in unknown_words(plain_text(text), known) if word not in taught]
    if unknown:
        yield (
            f"the embedded model never learned {_listed(unknown)} in the {what}; docs/world.md"
            " lists the words it knows"
        )


def _listed(words: Iterable[str]) -> str:
    quoted = [repr(word) for word in words]
    more = f" and {len(quoted) - 8} more words" if len(quoted) > 8 else ""
    return ", ".join(quoted[:8]) + more


def unheard_warnings(run: Run) -> Iterator[str]:
    """A sentence for what a run was told and has no use for."""
    if any(run.negatives) and not run.guided:
        scale = "--true-cfg" if run.family.distilled else "--guidance"
        yield f"the negative prompt has no effect without guidance; give {scale} above 1"

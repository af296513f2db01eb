"""Adapter files to factors. No model is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from compose.adapters import scaling
from compose.adapters.header import Facts, read_facts
from compose.adapters.keys import component
from compose.adapters.outline import Outline, Pair, read_outline
from compose.adapters.safe import check_finite, load_tensors, refusal, shown


@dataclass(frozen=True)
class RawFactors:
    """The factors of one module as the file holds them, in float32.

    Attributes:
        pair: their names and places.
        down: [r, d_in] or [r, c_in, kh, kw].
        up: [d_out, r] or [d_out, r, 1, 1], alpha / r folded in.
        alpha: as the file gives it; None where it does not, which means alpha = r.
    """

    pair: Pair
    down: Tensor
    up: Tensor
    alpha: float | None


@dataclass(frozen=True)
class AdapterFile:
    """A file that was read whole.

    Attributes:
        outline: what its header says about its tensors.
        modules: module in the spelling of the file, to its factors.
        facts: what it says about itself.
        warnings: what the user should know.
    """

    outline: Outline
    modules: Mapping[str, RawFactors]
    facts: Facts
    warnings: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The file, or the folder of a PEFT adapter."""
        return self.outline.place

    @property
    def layout(self) -> str:
        """Spelling of its names."""
        return self.outline.layout

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of tensors that have no meaning here."""
        return self.outline.ignored

    @property
    def metadata(self) -> Mapping[str, str]:
        """Texts of its header."""
        return self.outline.header.metadata


def read_adapter(path: str | Path) -> AdapterFile:
    """Read an adapter file.

    Factors become float32 whatever the file holds, so that folding alpha / r in costs no precision.

    Args:
        path: a safetensors file, or a PEFT folder.

    Raises:
        AdapterFormatError: a file that is unsound, holds another kind of adapter or none, factors
            that do not pair up, NaN or infinity, or settings that cannot be read.
    """
    outline = read_outline(path)
    facts = read_facts(outline.place, outline.name, outline.header.metadata)
    settings = scaling.read_settings(outline.path, outline.header.metadata)
    names = [n for p in outline.pairs.values() for n in (p.down, p.up, p.alpha) if n is not None]
    tensors = load_tensors(outline.path, outline.header, names)
    modules = {s: _raw(outline, p, tensors, settings) for s, p in outline.pairs.items()}
    return AdapterFile(outline, modules, facts, (*facts.warnings, *_warnings(outline, settings)))


def _raw(
    outline: Outline,
    pair: Pair,
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, scaling.PeftSettings],
) -> RawFactors:
    """Fold the scale of one module into its second factor."""
    alpha, rslora = alpha_of(outline, pair, settings)
    if pair.alpha is not None:
        alpha = float(tensors[pair.alpha].reshape(()))
    down, up = tensors[pair.down], tensors[pair.up]
    scale = scaling.scale(alpha, pair.rank, rslora=rslora)
    if scale != 1.0:
        up = up * scale
        check_finite(outline.path, pair.up, up)
    return RawFactors(pair, down, up, alpha)


def alpha_of(
    outline: Outline, pair: Pair, settings: Mapping[str, scaling.PeftSettings]
) -> tuple[float | None, bool]:
    """Alpha of a module as PEFT settings give it, and whether rank enters as a root.

    Raises:
        AdapterFormatError: the settings promise another rank than the tensors have.
    """
    path, name = pair.where.paths[0], component(pair.where)
    mine = settings.get(name) if name else None
    if mine is not None:
        path = path.removeprefix(f"{name}.")
    else:
        mine = settings.get("")
    if mine is None:
        return None, False
    promised = mine.rank_of(path)
    if promised is not None and promised != pair.rank:
        given = f"{shown(pair.stem)} has rank {pair.rank}, its settings say {promised:g}"
        raise refusal(outline.path, given, "the same rank in both", "save the adapter again")
    return mine.alpha_of(path), mine.rslora


def _warnings(outline: Outline, settings: Mapping[str, scaling.PeftSettings]) -> tuple[str, ...]:
    warnings = []
    if outline.layout == "peft" and not settings:
        known = any(pair.alpha for pair in outline.pairs.values())
        if not known:
            warnings.append(
                f"no {scaling.CONFIG_NAME} lies beside the weights, so alpha is unknown and the"
                " factors are used unscaled"
            )
    if outline.ignored:
        names = ", ".join(shown(name, 60) for name in outline.ignored[:4])
        more = f" and {len(outline.ignored) - 4} more" if len(outline.ignored) > 4 else ""
        warnings.append(f"tensors without a meaning here were left out: {names}{more}")
    return tuple(warnings)

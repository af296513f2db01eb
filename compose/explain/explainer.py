"""Takes adapters out of a running denoising loop, one at a time, and sees what changes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compose.adapters.triggers import called_at, calls
from compose.attention.capture import Columns, LayerCapture
from compose.attention.layers import text_layers
from compose.attention.maps import averaged
from compose.errors import RequestError
from compose.explain.explanation import Explained, Explanation, Origin
from compose.explain.masks import masks
from compose.explain.observer import Observer
from compose.explain.without import Without, acts
from compose.method import CompositionMethod
from compose.passes import Pass
from compose.run import Calls
from compose.types import Step

if TYPE_CHECKING:
    from compose.run import Run

LOOKS = 5
"""About how often an adapter that acts at every step is taken out."""
_MARK = "compose.explain/"
"""How the names of our own captures begin."""


@dataclass
class _Seen:
    """What has been seen of one adapter; maps are [images, ...] on the CPU.

    Attributes:
        acted: steps in which it acted.
        looked: indices of those in which it was taken out.
        effects: of these steps.
        words: that call it.
        attention: to these words, by step and pass.
        mask: the latest.
    """

    acted: int = 0
    looked: list[int] = field(default_factory=list)
    effects: list[Tensor] = field(default_factory=list)
    words: str = ""
    attention: list[Tensor] = field(default_factory=list)
    mask: Tensor | None = None


class Explainer(Observer):
    """Sees what each adapter does in one run.

    At some steps, every adapter that acts there is taken out of the method's own passes while
    everything else stays: latents, masks, the other adapters. The passes that change run again, as
    rows of a call of their own (in the method's call, other rows would change its rounding), and
    the method makes one prediction of them as ever. How far that is from the prediction with the
    adapter is its effect. Steps are counted for each adapter apart, among those in which it acts,
    so that turns of any length are met.

    Args:
        method: of the run. `sides` and `fuse` are asked again, on a shallow copy of the run's
            state.
        looks: about how often an adapter that acts at every step is taken out.

    Raises:
        CaptureError: from `Run.predict`, where the attention to text cannot be captured.
    """

    def __init__(self, method: CompositionMethod, looks: int = LOOKS) -> None:
        self._method = method
        self._looks = looks
        self._without = Without()
        self._seen: dict[int, _Seen] = {}
        self._due: list[int] = []
        self._calls = Calls()

    def before(self, run: Run, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        """Choose the adapters to be taken out at this step; capture attention to their words."""
        stride = max(1, step.total // self._looks)
        self._due = []
        for k in range(len(run.adapters)):
            seen = self._seen.setdefault(k, _Seen())
            if any(acts(p, k) for p in passes):
                if seen.acted % stride == 0:
                    self._due.append(k)
                seen.acted += 1
        return [self._watched(run, p) for p in passes]

    def after(
        self,
        run: Run,
        step: Step,
        latents: Tensor,
        passes: Sequence[Pass],
        predictions: Mapping[str, Tensor],
    ) -> None:
        """Take the chosen adapters out, one at a time."""
        self._keep_attention(run)
        self._keep_masks(run, passes)
        if not self._due:
            return
        before = copy.copy(run.calls)
        with_all = self._method.fuse(_view(run), step, predictions).float()
        size = with_all.square().sum(dim=1).sqrt().mean(dim=(1, 2), keepdim=True)  # [images, 1, 1]
        for k, prediction in self._taken_out(run, step, latents, passes, predictions):
            change = (with_all - prediction.float()).square().sum(dim=1).sqrt()
            self._seen[k].effects.append((change / size).cpu())
            self._seen[k].looked.append(step.index)
        for name, count in asdict(before).items():
            more = getattr(run.calls, name) - count
            setattr(self._calls, name, getattr(self._calls, name) + more)

    def explanations(self, run: Run) -> tuple[Explanation, ...]:
        """What has been seen, one for each image of a run that is over."""
        self._keep_masks(run, ())
        steps = len(run.schedule.timesteps)
        return tuple(
            Explanation(
                tuple(self._explained(run, k, image, steps) for k in range(len(run.adapters))),
                steps,
                replace(self._calls),
            )
            for image in range(run.images)
        )

    def _taken_out(
        self,
        run: Run,
        step: Step,
        latents: Tensor,
        passes: Sequence[Pass],
        predictions: Mapping[str, Tensor],
    ) -> Iterator[tuple[int, Tensor]]:
        """The method's prediction [images, C, H, W] without each of the chosen adapters."""
        changed = {k: self._without.passes(run, passes, k) for k in self._due}
        rows = [
            replace(p, name=_named(p.name, run.adapters.names[k]))
            for k, some in changed.items()
            for p in some
        ]
        made = _view(run).predict(latents, step, rows)
        for k, some in changed.items():
            names = {p.name: _named(p.name, run.adapters.names[k]) for p in some}
            alone = {n: made[names[n]] if n in names else p for n, p in predictions.items()}
            yield k, self._method.fuse(_view(run), step, alone)

    def _watched(self, run: Run, p: Pass) -> Pass:
        wanted = {k: self._words(run, p, k) for k in self._due if acts(p, k)}
        ours = {f"{_MARK}{k}": columns for k, columns in wanted.items() if columns is not None}
        return replace(p, capture={**p.capture, **ours}) if ours else p

    def _words(self, run: Run, p: Pass, k: int) -> Columns | None:
        """What to capture of the words that call adapter `k` in a pass; None where nothing does."""
        made, adapter = p.conditioning.origin, run.adapters.adapters[k]
        if made is None or made.negative:
            return None
        texts = list(zip(p.conditioning.tokens, made.prompts, strict=True))
        try:
            at = tuple(called_at(adapter, row, text, class_word=True) for row, text in texts)
        except RequestError:  # so late in the prompt that no text encoder sees them
            return None
        if not all(at):
            return None
        self._seen[k].words = _longest(calls(adapter, made.prompts[0], class_word=True))
        return Columns(text_layers(), at, norm="text")

    def _keep_attention(self, run: Run) -> None:
        """Take our own captures out of the run's maps; the method's stay as if they were alone."""
        found = {of: _split(layers) for of, layers in run.maps.items()}
        for ours, _ in found.values():
            for name, layers in ours.items():
                shown = averaged(layers).mean(dim=1)  # over the words: [images, h, w]
                self._seen[int(name.removeprefix(_MARK))].attention.append(shown.float().cpu())
        run.maps = {of: theirs for of, (_, theirs) in found.items() if theirs}

    def _keep_masks(self, run: Run, passes: Sequence[Pass]) -> None:
        for k, mask in masks(run, passes).items():
            self._seen[k].mask = mask

    def _explained(self, run: Run, k: int, image: int, steps: int) -> Explained:
        seen = self._seen[k]
        effect = torch.zeros(run.regions.shape[-2:])
        if seen.effects:
            effect = torch.stack(seen.effects).mean(dim=0)[image] * (seen.acted / steps)
        mask = None if seen.mask is None else seen.mask[image]
        region, origin = _region(run, k, mask)
        attention = torch.stack(seen.attention).mean(dim=0)[image] if seen.attention else None
        return Explained(
            name=run.adapters.names[k],
            effect=effect,
            acted=seen.acted,
            looked=tuple(seen.looked),
            words=seen.words,
            attention=attention,
            mask=mask,
            region=region,
            origin=origin,
            text_kept=k in self._without.kept,
        )


def _view(run: Run) -> Run:
    """The run for a question aside: what is set on it or on its state stays there; its calls
    count.
    """
    view = copy.copy(run)
    view.state = copy.copy(run.state)
    return view


def _named(name: str, adapter: str) -> str:
    """Name of a pass without an adapter."""
    return f"{name} without {adapter}"


def _split(
    layers: Mapping[str, tuple[LayerCapture, ...]],
) -> tuple[Mapping[str, tuple[LayerCapture, ...]], Mapping[str, tuple[LayerCapture, ...]]]:
    """Captures of a pass: ours, and the method's."""
    ours = {name: found for name, found in layers.items() if name.startswith(_MARK)}
    return ours, {name: found for name, found in layers.items() if name not in ours}


def _region(run: Run, k: int, mask: Tensor | None) -> tuple[Tensor | None, Origin | None]:
    """Where adapter `k` belongs: as drawn, else the method's own mask if it tells places apart."""
    if run.placed[k]:
        return run.regions[k], "drawn"
    if mask is not None and mask.min() < mask.max():
        return mask, "automatic"
    return None, None


def _longest(phrases: Sequence[str]) -> str:
    """Phrases without those that begin another: "mochi cat" says "mochi" too."""
    return ", ".join(
        p for p in phrases if not any(q != p and q.startswith(f"{p} ") for q in phrases)
    )

"""Capture and bias in the attention layers of one denoiser call."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from compose.attention.bias import Bias, layer_bias, merged
from compose.attention.capture import Capture, LayerCapture, Record, Seen
from compose.attention.intercept import AttentionCall, intercepted
from compose.attention.layers import Images, LayerRule, Place
from compose.attention.places import Places
from compose.errors import CaptureError
from compose.slot import GateSlot, TokenLayout
from compose.types import AttentionSite


def everywhere(site: AttentionSite) -> bool:
    """The rule that all layers are meant."""
    del site
    return True


@dataclass(frozen=True)
class Watched:
    """Rows of a call that belong to one pass, and what is wanted of their attention.

    Attributes:
        of: name of the pass.
        rows: rows of the call.
        images: images of the pass that they are.
        capture: name to what is kept.
        bias: what is added to the logits.
        there: layers in which there are such rows.
    """

    of: str
    rows: slice
    images: Images
    capture: Mapping[str, Capture] = field(default_factory=dict)
    bias: Sequence[Bias] = ()
    there: LayerRule = everywhere


class _Enough(Exception):
    """Everything that was to be captured has been: the rest of the call is not needed."""


class Watch:
    """Captures and biases attention during one denoiser call.

    Layers that nothing is wanted of are not touched: they keep whatever back end they have. In a
    chosen layer the first call of softmax attention is the one that is meant; those that an
    IP-Adapter adds behind it pass through.

    Args:
        layers: of the denoiser.
        layout: where the call's image tokens lie.
        text: T, text tokens of the call.
        watched: all rows of the call, and what is wanted of them.
        slot: of the denoiser, in which the gate of the call lies; None for no adapters.
        partial: end the call as soon as everything is captured.

    Attributes:
        records: what was kept, as the layers ran.
        modules: the chosen layers.
        biased: those of them to which a bias is added.

    Raises:
        CaptureError: a capture or a bias that chooses no layer. From inside the call: a chosen
            layer that has no softmax attention to look into, or with other rows or tokens than the
            call's. At the end of the context: a layer to be captured that never ran.
    """

    def __init__(
        self,
        layers: Mapping[AttentionSite, nn.Module],
        layout: TokenLayout,
        text: int,
        watched: Sequence[Watched],
        *,
        slot: GateSlot | None = None,
        partial: bool = False,
    ) -> None:
        self.records: list[Record] = []
        self._slot = GateSlot() if slot is None else slot
        self._watched = watched
        self._partial = partial
        self._biases: dict[tuple[object, ...], Tensor] = {}
        captures = [(w, n, c.layers) for w in watched for n, c in w.capture.items()]
        biases = [(w, type(b).__name__, b.layers) for w in watched for b in w.bias]
        for w, name, rule in (*captures, *biases):
            if not any(rule(s) for s in layers if w.there(s)):
                raise CaptureError(_no_layer(w, name, rule, layers))
        self._due = {s for s in layers if any(w.there(s) and rule(s) for w, _, rule in captures)}
        biased = {s for s in layers if any(w.there(s) and rule(s) for w, _, rule in biases)}
        placed = {s for s in layers if s.keys == "text"} if self._slot.uneven else set()
        kinds = {"gated by place": placed, "biased": biased, "captured": self._due}
        self._wishes = {s: f"attention was to be {n}" for n, some in kinds.items() for s in some}
        self._modules = {s: m for s, m in layers.items() if s in self._wishes}
        self._places = {site: Place(site, layout, text) for site in self._modules}
        self.modules: Collection[nn.Module] = list(self._modules.values())
        self.biased: Collection[nn.Module] = [layers[site] for site in biased]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The call happens inside; afterwards all layers are as they were."""
        try:
            with ExitStack() as stack:
                for site, module in self._modules.items():
                    handler, wish = partial(self._answer, self._places[site]), self._wishes[site]
                    stack.enter_context(intercepted(module, handler, name=site.path, wish=wish))
                yield
            self._check_taken()
        except _Enough:
            pass
        if self._due:
            paths = ", ".join(sorted(site.path for site in self._due))
            raise CaptureError(
                f"attention was to be captured at {paths}, which did not run in this call; expected"
                " layers that do, so choose others"
            )

    def _answer(self, place: Place, call: AttentionCall) -> Tensor:
        """Stand in for one call of softmax attention."""
        if call.number:
            return call.attend()
        self._check(place, call)
        places, own = self._held_back(place, call), call
        if places is not None:
            call = places.widened(call)
        mask = self._mask(place, call)
        output = call.attend() if mask is None else call.attend_under(mask)
        if places is not None:
            output = places.narrowed(output, own)
        mask = call.mask if mask is None else mask
        self._keep(Seen(place, call.query, call.key, mask, call.scale, output))
        self._due.discard(place.site)
        if self._partial and not self._due:
            raise _Enough
        return output

    def _held_back(self, place: Place, call: AttentionCall) -> Places | None:
        """What the layer's projections have left to it."""
        path, changes = place.site.path, self._slot.changes
        key, value = changes.pop((path, "key"), None), changes.pop((path, "value"), None)
        if key is None and value is None:
            return None
        return Places(path, key, value, self._slot.queries(place.grid, call.query.device))

    def _check_taken(self) -> None:
        for path, role in self._slot.changes:
            raise CaptureError(
                f"adapters were to act on the {role}s of {path} by the place of the query, but the"
                " model does not count it among its attention layers; expected one of those, so"
                " choose another way in text, such as least"
            )

    def _keep(self, seen: Seen) -> None:
        site, grid = seen.place.site, seen.place.grid
        for w in self._at(site):
            wanted = {n: c for n, c in w.capture.items() if c.layers(site)}
            own = _narrowed(seen, w.rows) if wanted else seen
            for name, capture in wanted.items():
                values = capture.take(own, w.images)
                self.records.append(Record(w.of, name, LayerCapture(site, grid, values)))

    def _mask(self, place: Place, call: AttentionCall) -> Tensor | None:
        """The mask under all biases, to be broadcast to [rows, heads, n_q, n_k]; None without."""
        here = self._at(place.site)
        chosen = [tuple(b for b in w.bias if b.layers(place.site)) for w in here]
        if not any(chosen):
            return None
        key = (place.site.keys, place.grid, *(id(b) for some in chosen for b in (*some, None)))
        if key not in self._biases:
            self._biases[key] = self._bias(place, call.query, chosen)
        if call.mask is not None:
            return merged(self._biases[key], call.mask, call.query.dtype)
        ready = (*key, call.query.dtype)
        if ready not in self._biases:
            self._biases[ready] = merged(self._biases[key], None, call.query.dtype)
        return self._biases[ready]

    def _bias(self, place: Place, query: Tensor, chosen: Sequence[tuple[Bias, ...]]) -> Tensor:
        """[rows, 1, n_q, n_k] float32 over all rows of the call."""
        total = torch.zeros(query.shape[0], 1, *place.shape, device=query.device)
        for w, biases in zip(self._at(place.site), chosen, strict=True):
            logits = layer_bias(biases, place, query.device)
            total[w.rows, 0] = logits[w.images.among(logits.shape[0], f"a bias of pass {w.of}")]
        return total

    def _at(self, site: AttentionSite) -> list[Watched]:
        """Whose rows there are in a layer."""
        return [w for w in self._watched if w.there(site)]

    def _check(self, place: Place, call: AttentionCall) -> None:
        """Refuse a call that is not the one that the layer's place in the model lets expect."""
        rows, _, *tokens = (*call.query.shape[:-1], call.key.shape[-2])
        total = max(w.rows.stop for w in self._at(place.site))
        if rows == total and tuple(tokens) == place.shape and call.plain:
            return
        kind = "" if call.plain else ", causal, with dropout or with shared heads"
        raise CaptureError(
            f"{place.site.path} computes attention of {rows} rows, {tokens[0]} queries and"
            f" {tokens[1]} keys{kind}; expected {total} rows, {place.shape[0]} queries and"
            f" {place.shape[1]} keys of plain softmax attention, as the model's layout has it:"
            " choose other layers, or take out what merges tokens or splits rows there"
        )


def _narrowed(seen: Seen, rows: slice) -> Seen:
    mask = seen.mask
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)]
        mask = mask if mask.shape[0] == 1 else mask[rows]
    return seen._replace(
        query=seen.query[rows], key=seen.key[rows], mask=mask, output=seen.output[rows]
    )


def _no_layer(
    watched: Watched, name: str, rule: object, layers: Mapping[AttentionSite, nn.Module]
) -> str:
    there = [site for site in layers if watched.there(site)]
    kinds = sorted({(s.keys, -1 if s.level is None else s.level) for s in there})
    known = ", ".join(keys if level < 0 else f"{keys} at level {level}" for keys, level in kinds)
    return (
        f"{name} of pass {watched.of} chooses no attention layer with {rule}; expected one of the"
        f" model's {len(there)} layers: {known or 'none'}"
    )

"""Gates over queries: what they give, and a loop over the queries that gives the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compose.attention.capture import Columns, Outputs
from compose.attention.layers import text_layers
from compose.gate import Gate
from compose.slot import resample
from compose.types import AttentionSite, Site
from tests.attention.explicit import ExplicitUNet, heads
from tests.attention.runs import Standing

UNETS = ["sd15", "sdxl"]
LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
GRID = (16, 24)
"""Of the latents; with K = 3 and 77 words."""
CAPTURE = {"words": Columns(text_layers(), heads=True), "outputs": Outputs(text_layers())}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Numbers in [0, 1) that are exact in float32, as are their products and means."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 8, shape, generator=generator) / 8


def strengths(site: Site) -> Tensor:
    return torch.tensor([1.0, 0.5, 2.0] if site.block.startswith("down") else [0.5, 1.0, -1.0])


def uneven(images: int = 2, **more: Any) -> Gate:
    """Another gate for every image, in every part."""
    parts: dict[str, Any] = {
        "text": drawn(images, 77, 3, seed=1),
        "image": drawn(images, 3, *GRID, seed=2),
        "queries": drawn(images, 3, *GRID, seed=3),
        "site": strengths,
    }
    weight = torch.tensor([[1.0, -0.5, 0.25], [0.5, 0.75, 1.0]])[:images]
    return Gate(weight, **{**parts, **more})


@dataclass(frozen=True)
class Made:
    """What a call gives."""

    predictions: dict[str, Tensor]
    maps: Any

    def close(self, other: Made, tolerance: float = 1e-10) -> None:
        for side, prediction in other.predictions.items():
            scale = float(prediction.abs().max())
            assert float((self.predictions[side] - prediction).abs().max()) < tolerance * scale


def under(here: Standing, cond: Gate, uncond: Gate, **more: Any) -> Made:
    """The prompt's rows under one gate and those of the negative prompt under another."""
    gates = {"cond": cond, "uncond": uncond}
    passes = [
        replace(p, gate=gates[p.name], **(more if p.name == "cond" else {})) for p in here.passes
    ]
    with torch.no_grad():
        predictions = here.run.predict(here.latents, here.step, passes)
    return Made(predictions, here.run.maps)


class Loop(ExplicitUNet):
    """Cross-attention in which every query has keys and values of its own, one by one."""

    def __init__(self, here: Standing, site: AttentionSite, gates: list[Gate]) -> None:
        super().__init__()
        self.here, self.site, self.gate = here, site, Gate.stack(gates)
        grid = here.family.layout(here.latents).grid(site.level or 0)
        queries = self.gate.queries
        assert queries is not None
        self.places = resample(queries, grid).flatten(2).transpose(1, 2).double()  # [rows, n, K]

    def changes(self, name: str, attn: Any, context: Tensor) -> tuple[Tensor, Tensor]:
        """What the base gives of the text, [rows, T, d], and what each adapter would add to it in
        every row, [rows, K, T, d].
        """
        module = getattr(attn, name)
        base = getattr(module, "base", module)(context)
        path = f"unet.{self.site.path}.{name}"
        site = self.here.family.site("unet", f"{self.site.path}.{name}", module)
        rule = self.gate.site
        assert self.gate.text is not None and rule is not None
        share = self.gate.weight * rule(site)  # [rows, K]
        added = torch.zeros(base.shape[0], 3, *base.shape[1:], dtype=base.dtype)
        for k, adapter in enumerate(self.here.run.adapters):
            if path in adapter.factors:
                factors = adapter.factors[path]
                change = context @ factors.down.double().T @ factors.up.double().T
                by_word = share[:, None, k] * self.gate.text[..., k]
                added[:, k] = by_word[..., None].double() * change
        return base, added

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_: Any) -> Tensor:
        query = heads(attn.to_q(hidden_states), attn)
        key, keys = self.changes("to_k", attn, encoder_hidden_states)
        value, values = self.changes("to_v", attn, encoder_hidden_states)
        made = []
        for i in range(query.shape[2]):
            at = self.places[:, i]
            own = [
                heads(base + torch.einsum("bk,bktd->btd", at, added), attn)
                for base, added in ((key, keys), (value, values))
            ]
            made.append(self.one(i, query[:, :, i : i + 1], *own))
        self.probabilities = torch.cat([p for p, _ in made], dim=2)
        self.outputs = torch.cat([o for _, o in made], dim=2)
        return attn.to_out[0](self.outputs.transpose(1, 2).flatten(2))

    def one(self, i: int, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and output of query `i` in every row."""
        logits = query @ key.mT / query.shape[-1] ** 0.5
        if self.bias is not None:
            logits = logits + self.bias[:, :, i : i + 1]
        probabilities = logits.softmax(-1)
        return probabilities, probabilities @ value


def by_loop(here: Standing, cond: Gate, uncond: Gate, bias: Any = None) -> tuple[Made, dict]:
    """The same call with a loop in every cross-attention layer, and these loops."""
    flat = [replace(gate.expand(2), queries=None) for gate in (uncond, cond)]
    layers = {s: m for s, m in here.family.attention_layers().items() if s.keys == "text"}
    before = {site: module.processor for site, module in layers.items()}
    loops = {s: Loop(here, s, [uncond.expand(2), cond.expand(2)]) for s in layers}
    for site, module in layers.items():
        module.processor = loops[site]
        if bias is not None:
            loops[site].bias = bias(site)
    made = under(here, flat[1], flat[0])
    for site, module in layers.items():
        module.processor = before[site]
    return made, loops

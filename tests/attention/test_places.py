"""Keys and values that every image token sees by where it is, against a loop over the queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional

from compose.attention import places
from compose.attention.bias import TextBias, membership
from compose.attention.capture import Columns, Outputs
from compose.attention.layers import text_layers
from compose.errors import CaptureError, ShapeError
from compose.gate import Gate
from compose.slot import resample
from compose.types import AttentionSite, Site
from tests.attention.explicit import ExplicitUNet, heads
from tests.attention.runs import Standing, standing
from tests.attention.test_intercept import state
from tests.families import FAMILIES

UNETS = ["sd15", "sdxl"]
GRID = (16, 24)
"""Of the latents; with K = 3 and 77 words."""
CAPTURE = {"words": Columns(text_layers(), heads=True), "outputs": Outputs(text_layers())}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, list]:
    """Three adapters of ranks 2, 5 and 3 for every family."""
    return {n: f.files(tmp_path_factory.mktemp(n)) for n, f in FAMILIES.items()}


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


@pytest.mark.parametrize("name", UNETS)
def test_every_query_sees_what_a_loop_over_queries_gives_it(name, files) -> None:
    """Rows with gates of their own, ranks that differ, words, layers and weights in the gate too;
    what is captured on the way is what the layer computes.
    """
    here = standing(name, paths=files[name])
    cond, uncond = uneven(), uneven(queries=drawn(2, 3, *GRID, seed=7))
    got, plain = under(here, cond, uncond, capture=CAPTURE), under(here, cond, uncond)
    expected, loops = by_loop(here, cond, uncond)
    got.close(expected)
    assert all(torch.equal(p, got.predictions[side]) for side, p in plain.predictions.items())
    flat = under(here, replace(cond, queries=None), uncond)
    assert (flat.predictions["cond"] - got.predictions["cond"]).abs().max() > 1e-3
    for layer in got.maps["cond"]["words"]:
        torch.testing.assert_close(
            layer.values, loops[layer.site].probabilities[2:], rtol=0, atol=1e-10
        )
    for layer in got.maps["cond"]["outputs"]:
        torch.testing.assert_close(layer.values, loops[layer.site].outputs[2:], rtol=0, atol=1e-10)
    assert len(got.maps["cond"]["words"]) == len(loops) > 5


def test_biases_add_up_with_it(files) -> None:
    here = standing("sd15", paths=files["sd15"])
    masks = torch.zeros(1, 2, *GRID)
    masks[:, 0, :, :12] = masks[:, 1, :, 12:] = 1
    chosen = TextBias(masks, membership(((1, 2), (4, 6)), 77), own=1.5, other=-0.5)

    def bias(site: AttentionSite) -> Tensor:
        grid = here.family.layout(here.latents).grid(site.level or 0)
        block = chosen.blocks(grid, 77, torch.device("cpu"))["image", "text"][:, None]
        return torch.cat(
            [torch.zeros_like(block).expand(2, -1, -1, -1), block.expand(2, -1, -1, -1)]
        )

    got = under(here, uneven(), uneven(), bias=(chosen,))
    expected, _ = by_loop(here, uneven(), uneven(), bias)
    got.close(expected)


@pytest.mark.parametrize("name", UNETS)
def test_gradients_are_those_of_the_loop(name, files) -> None:
    here = standing(name, paths=files[name])
    cond, uncond = uneven(), uneven()

    def gradient() -> Tensor:
        z = here.latents.clone().requires_grad_()
        gates = {"cond": cond, "uncond": uncond}
        passes = [replace(p, gate=gates[p.name]) for p in here.passes]
        with torch.enable_grad():
            out = here.run.predict(z, here.step, passes)["cond"]
        return torch.autograd.grad(out.square().sum(), z)[0]

    got = gradient()
    layers = {s: m for s, m in here.family.attention_layers().items() if s.keys == "text"}
    for site, module in layers.items():
        module.processor = Loop(here, site, [uncond, cond])
    cond, uncond = (replace(g, queries=None) for g in (cond, uncond))
    expected = gradient()
    assert float((got - expected).abs().max()) < 1e-9 * float(expected.abs().max())


@pytest.mark.parametrize("name", UNETS)
def test_the_same_at_all_places_is_the_ordinary_gate(name, files) -> None:
    here = standing(name, paths=files[name])
    share = torch.tensor([[1.0, 0.5, 0.0], [0.25, 1.0, 0.5]])
    flat = uneven(queries=None, text=share[:, None].expand(-1, 77, -1).clone())
    even = uneven(text=None, queries=share[..., None, None].expand(-1, -1, *GRID).clone())
    off = Gate.off(3)
    ordinary = under(here, flat, off).predictions
    assert torch.equal(under(here, even, off).predictions["cond"], ordinary["cond"])
    # In one call with rows that see differently, all go the long way.
    mixed = under(here, even, uneven()).predictions
    torch.testing.assert_close(mixed["cond"], ordinary["cond"], rtol=1e-10, atol=1e-12)


def test_rows_without_adapters_and_gates_of_zero_are_the_base(files) -> None:
    here = standing("sd15", paths=files["sd15"])
    base = under(here, Gate.off(3), Gate.off(3)).predictions
    nothing = uneven(queries=torch.zeros(2, 3, *GRID), image=torch.zeros(2, 3, 1, 1))
    for side, prediction in under(here, nothing, nothing).predictions.items():
        assert torch.equal(prediction, base[side])
    got = under(here, uneven(), Gate.off(3)).predictions
    torch.testing.assert_close(got["uncond"], base["uncond"], rtol=1e-10, atol=1e-12)


LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"


@pytest.mark.parametrize("where", ["own", "other"])
def test_a_place_with_a_gate_of_zero_does_not_hear_the_adapter(where, files) -> None:
    """Bit for bit: however loud the adapter is, and what the base says there beyond rounding."""
    here = standing("sd15", paths=files["sd15"])
    left = torch.zeros(1, 3, *GRID)
    left[:, :, :, : GRID[1] // 2] = 1
    heard: list[Tensor] = []
    layer = here.family.denoiser.get_submodule(LAYER)

    def first(module: nn.Module, args: Any, kwargs: Any) -> Any:
        inputs = torch.linspace(-1, 1, args[0].numel(), dtype=torch.float64).view_as(args[0])
        return (inputs, *args[1:]), kwargs

    hooks = [
        layer.register_forward_pre_hook(first, with_kwargs=True),
        layer.register_forward_hook(lambda module, args, out: heard.append(out)),
    ]
    for loud in (0.0, 1.0, 9.0):
        gate = Gate(torch.full((1, 3), loud), queries=left, image=torch.zeros(1, 3, 1, 1))
        under(here, gate, Gate.off(3))
    for hook in hooks:
        hook.remove()
    base, one, nine = (out[2:].unflatten(1, (8, 12)) for out in heard)
    half = slice(0, 6) if where == "own" else slice(6, 12)
    if where == "own":
        assert (one - base)[:, :, half].abs().max() > 1e-2
        assert (one - nine)[:, :, half].abs().max() > 1e-2
    else:
        assert torch.equal(one[:, :, half], nine[:, :, half])
        torch.testing.assert_close(one[:, :, half], base[:, :, half], rtol=0, atol=1e-13)


@pytest.mark.parametrize("backend", ["_native_math", "_native_flash"])
def test_routed_back_ends_compute_it_alike(backend, files) -> None:
    here = standing("sd15", paths=files["sd15"])
    plain = under(here, uneven(), uneven(), capture=CAPTURE)
    here.family.use_attention_backend(backend)
    routed = under(here, uneven(), uneven(), capture=CAPTURE)
    routed.close(plain)
    for kind in CAPTURE:
        for ours, theirs in zip(routed.maps["cond"][kind], plain.maps["cond"][kind], strict=True):
            torch.testing.assert_close(ours.values, theirs.values, rtol=1e-8, atol=1e-10)


@pytest.fixture
def shapes(monkeypatch) -> Iterator[list[tuple[torch.Size, ...]]]:
    """Shapes of query, key and value of the calls that are made wider."""
    found: list[tuple[torch.Size, ...]] = []
    inner = places.AttentionCall

    def seen(*args: Any) -> Any:
        call = inner(*args)
        found.append((call.query.shape, call.key.shape, call.value.shape))
        return call

    monkeypatch.setattr(places, "AttentionCall", seen)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_come_in_multiples_of_eight_and_half_precision_holds(dtype, files, shapes) -> None:
    """Errors are those of an ordinary gate in the same precision."""
    flat = uneven(queries=None)
    errors = {}
    for kind, gate in (("flat", flat), ("uneven", uneven())):
        exact = under(standing("sd15", paths=files["sd15"]), gate, gate).predictions["cond"]
        rough = under(standing("sd15", paths=files["sd15"], dtype=dtype), gate, gate)
        errors[kind] = float((rough.predictions["cond"] - exact).square().mean().sqrt())
    assert errors["uneven"] < 1.5 * errors["flat"]
    widths = {shape[-1] for call in shapes for shape in call}
    assert len(shapes) == 2 and widths == {24}  # a head of 8, ten ranks


@pytest.mark.parametrize("budget", [1, 3])
def test_calls_may_be_split(budget, files) -> None:
    whole = under(standing("sd15", paths=files["sd15"]), uneven(), uneven())
    split = standing("sd15", paths=files["sd15"], row_budget=budget)
    under(split, uneven(), uneven()).close(whole)


def test_adapters_that_do_not_depend_on_places_stay_out_of_it(files, shapes) -> None:
    """A style beside placed figures costs nothing more, and is added as ever."""
    here = standing("sd15", paths=files["sd15"])
    queries = drawn(2, 3, *GRID, seed=3)
    queries[:, 1] = 1.0  # the one of rank 5
    got = under(here, uneven(queries=queries), uneven(queries=queries))
    assert {shape[-1] for call in shapes for shape in call} == {16}  # 8 and five ranks
    expected, _ = by_loop(here, uneven(queries=queries), uneven(queries=queries))
    got.close(expected)


def test_ranks_may_have_gates_of_their_own(files) -> None:
    """A router over ranks that says the same of all ranks of an adapter is one over adapters."""
    here = standing("sd15", paths=files["sd15"])
    ranks = torch.repeat_interleave(torch.tensor([0.5, 2.0, -1.0]), torch.tensor([2, 5, 3]))
    single = torch.tensor([0.5, 2.0, -1.0])
    one = uneven(rank_router=lambda site, x: ranks[None, None])
    other = uneven(router=lambda site, x: single[None, None])
    under(here, one, one).close(under(here, other, other))


def test_nothing_stays_behind(files) -> None:
    here = standing("sd15", paths=files["sd15"])
    before = state(here.family)
    under(here, uneven(), uneven())
    assert state(here.family) == before
    assert here.run.slots["unet"].changes == {} and here.run.slots["unet"].uneven == ()
    plain = here.predict()
    assert all(torch.equal(p, plain[n]) for n, p in here.predict().items())


def test_a_compiled_block_computes_it_alike(files) -> None:
    here = standing("sd15", paths=files["sd15"], images=1, dtype=torch.float32)
    expected = under(here, uneven(1), uneven(1))
    block = here.family.denoiser.get_submodule(LAYER.removesuffix(".attn2"))
    block.compile(backend="eager")
    got = under(here, uneven(1), uneven(1))
    torch._dynamo.reset()
    got.close(expected, 1e-5)


class Normed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=-1)


def test_keys_that_are_not_what_was_projected_are_refused(files) -> None:
    here = standing("sd15", paths=files["sd15"])
    layer: Any = here.family.denoiser.get_submodule(LAYER)
    layer.norm_k = Normed()
    with pytest.raises(CaptureError, match=rf"{LAYER} by the place .* its keys are changed"):
        under(here, uneven(), uneven())
    layer.norm_k = None
    layer.processor = AttnProcessor()  # multiplies in batches
    with pytest.raises(CaptureError, match=rf"gated by place at {LAYER}, but its AttnProcessor"):
        under(here, uneven(), uneven())


def test_a_layer_that_the_model_does_not_count_is_refused(files) -> None:
    here = standing("sd15", paths=files["sd15"])
    family: Any = here.family
    known = {s: m for s, m in family.attention_layers().items() if s.path != LAYER}
    family.attention_layers = lambda: known
    with pytest.raises(CaptureError, match=rf"the keys of {LAYER}.*does not count it"):
        under(here, uneven(), uneven())


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_text_that_other_words_see_is_refused(name, files) -> None:
    here = standing(name, paths=files[name], dtype=torch.float32)
    text = here.passes[0].conditioning.embeds.shape[1]
    gate = uneven(text=drawn(2, text, 3))
    with pytest.raises(ShapeError, match=r"a gate over queries reached transformer.*other words"):
        under(here, gate, gate)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"query gate \[2, 3\]; expected \[rows=2, K=3, H, W\]"):
        uneven(queries=torch.ones(2, 3))
    with pytest.raises(ShapeError, match="a gate over queries has a combiner too"):
        uneven(combiner=lambda site, base, deltas: base)

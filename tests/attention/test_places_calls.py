"""Keys and values by place: back ends, shapes, split calls, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional

from compose.attention import places
from compose.errors import CaptureError, ShapeError
from tests.attention.placed import (
    CAPTURE,
    GRID,
    LAYER,
    by_loop,
    drawn,
    under,
    uneven,
)
from tests.attention.runs import standing
from tests.attention.test_intercept import state


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

"""Biases against softmax written out, and isolation in every dtype."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from compose.attention.bias import (
    Isolation,
    RegionBlocks,
    TextBias,
    layer_bias,
    membership,
    merged,
)
from compose.attention.capture import Columns
from compose.attention.layers import Place, image_layers, text_layers
from compose.errors import CaptureError, ShapeError
from compose.slot import TokenLayout
from compose.types import AttentionSite
from tests.attention.explicit import explicit
from tests.attention.runs import ALL, Standing, standing

CPU = torch.device("cpu")
INF = torch.inf


def halves(images: int = 1) -> Tensor:
    """Left and right of a picture with a strip between, [images, 2, 8, 12]; rows differ."""
    masks = torch.zeros(images, 2, 8, 12)
    masks[:, 0, :, :5] = 1
    masks[:, 1, :, 7:] = 1
    masks[1:, 0, 6:] = 0
    return masks


def words(text: int, images: int = 1) -> Tensor:
    found = membership(((1, 2), (4, 6)), text).repeat(images, 1, 1)
    found[1:, 1, 0] = 0
    return found


# Made by hand: a grid of 1 x 4, regions A and B, three words.

LINE = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0, 1.0]]]])
"""Tokens: A, A and B, none, B."""
THREE = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
"""Words: of A, of B, of none."""


def test_isolation_bans_pairs_of_other_regions_only() -> None:
    ((sides, found),) = Isolation(LINE).blocks((1, 4), 3, CPU).items()
    assert sides == ("image", "image")
    expected = torch.zeros(4, 4)
    expected[0, 3] = expected[3, 0] = -INF
    assert torch.equal(found[0], expected)


def test_text_bias_by_hand() -> None:
    found = TextBias(LINE, THREE, own=2.0, other=-4.0).blocks((1, 4), 3, CPU)
    to_text = [[2.0, -4.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 0.0], [-4.0, 2.0, 0.0]]
    assert found["image", "text"][0].tolist() == to_text
    to_image = [[2.0, 2.0, -4.0, -4.0], [-4.0, 2.0, -4.0, 2.0], [0.0, 0.0, 0.0, 0.0]]
    assert found["text", "image"][0].tolist() == to_image
    assert set(TextBias(LINE, THREE, back=False).blocks((1, 4), 3, CPU)) == {("image", "text")}


def test_region_blocks_by_hand() -> None:
    found = RegionBlocks(LINE, THREE).blocks((1, 4), 3, CPU)
    allowed = {sides: (block[0] == 0).int().tolist() for sides, block in found.items()}
    assert allowed == {
        ("image", "text"): [[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]],
        ("text", "image"): [[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]],
        ("image", "image"): [[1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0], [0, 1, 0, 1]],
        ("text", "text"): [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    }


@pytest.mark.parametrize("text_first", [True, False])
def test_blocks_stand_where_the_sequence_has_them(text_first) -> None:
    place = Place(AttentionSite("a", "joint"), TokenLayout(1, 4, text_first), 3)
    bias = TextBias(LINE, THREE)
    found = layer_bias([bias], place, CPU)[0]
    blocks = bias.blocks((1, 4), 3, CPU)
    image, text = (slice(3, 7), slice(0, 3)) if text_first else (slice(0, 4), slice(4, 7))
    assert torch.equal(found[image, text], blocks["image", "text"][0])
    assert torch.equal(found[text, image], blocks["text", "image"][0])
    assert (found[image, image] == 0).all() and (found[text, text] == 0).all()
    both = layer_bias([bias, Isolation(LINE)], place, CPU)[0]
    assert torch.equal(
        both[image, image], Isolation(LINE).blocks((1, 4), 3, CPU)["image", "image"][0]
    )
    assert torch.equal(both[image, text], blocks["image", "text"][0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_bans_are_finite_and_their_probability_is_zero_in_every_dtype(dtype) -> None:
    bias = torch.zeros(1, 1, 3, 4)
    bias[..., 0, 1:] = -INF
    bias[..., 1, :] = -INF  # nothing left: as if nothing had been said
    bias[..., 2, 0] = 3.0
    padding = torch.tensor([[0.0, 0.0, 0.0, -10000.0]], dtype=dtype)
    for mask in (None, padding, padding == 0):
        got = merged(bias, mask, dtype)
        assert got.dtype == dtype and torch.isfinite(got).all()
        torch.manual_seed(0)
        logits = (2 * torch.randn(1, 1, 3, 4)).to(dtype)
        for precise in (logits + got, logits.double() + got.double()):
            found = precise.softmax(-1)
            assert torch.isfinite(found).all()
            assert found[0, 0, 0].tolist() == [1.0, 0.0, 0.0, 0.0]
            assert (found[0, 0, 1:, :3] > 0).all()
            assert mask is None or found[0, 0, 1:, 3].abs().max() == 0
        assert got[0, 0, 2, 0] == 3.0
    if dtype.itemsize >= 4:
        q = torch.randn(1, 1, 4, 4, dtype=dtype)
        out = torch.nn.functional.scaled_dot_product_attention(
            q[:, :, :3],
            q,
            torch.eye(4, dtype=dtype)[None, None],
            attn_mask=merged(bias, None, dtype),
        )
        assert out[0, 0, 0].tolist() == [1.0, 0.0, 0.0, 0.0]


def biases(here: Standing) -> dict:
    text = here.passes[0].conditioning.embeds.shape[1]
    return {
        "isolation": (Isolation(halves(2)),),
        "text": (TextBias(halves(2), words(text, 2)),),
        "blocks": (RegionBlocks(halves(), words(text)),),
        "both": (Isolation(halves()), TextBias(halves(2), words(text), own=1.5, other=-0.5)),
    }


def added(chosen, site: AttentionSite, here: Standing) -> Tensor:
    """What `chosen` says to one layer, [4, 1, n_q, n_k], from its blocks; rows of "cond" last."""
    text = here.passes[0].conditioning.embeds.shape[1]
    h, w = here.family.layout(here.latents).grid(site.level or 0)
    n = h * w
    total = torch.zeros(4, 1, n + text, n + text)  # image first
    spans = {"image": slice(0, n), "text": slice(n, n + text)}
    for bias in chosen:
        if bias.layers(site):
            for (q, k), block in bias.blocks((h, w), text, CPU).items():
                total[2:, 0, spans[q], spans[k]] += block.clamp(min=-1e30)
    if site.keys != "joint":
        return total[:, :, :n, spans[site.keys]]
    if here.family.layout(here.latents).text_first:
        order = torch.cat([torch.arange(n, n + text), torch.arange(n)])
        return total[:, :, order][..., order]
    return total


@pytest.mark.parametrize("kind", ["isolation", "text", "blocks", "both"])
@pytest.mark.parametrize("name", ALL)
def test_biased_layers_are_those_of_a_softmax_written_out(name, kind) -> None:
    here = standing(name)
    chosen = biases(here)[kind]
    layers = here.family.attention_layers()
    with explicit(name, layers) as oracle:
        for site, processor in oracle.items():
            processor.bias = added(chosen, site, here)
        expected = here.predict()
    capture = {"text": Columns(text_layers(), heads=True)}
    got = here.predict(bias=chosen, capture=capture)
    captured = here.run.maps["cond"]["text"]
    plain = here.predict()
    for side in ("cond", "uncond"):
        assert torch.allclose(got[side], expected[side], rtol=1e-8, atol=1e-9)
    assert (got["cond"] - plain["cond"]).abs().max() > 1e-4
    layout, count = here.family.layout(here.latents), capture_text(here)
    for layer in captured:  # what is captured is what the layer does
        at = Place(layer.site, layout, count)
        truth = oracle[layer.site].probabilities[2:, :, at.queries["image"], at.keys["text"]]
        assert torch.allclose(layer.values, truth, rtol=1e-8, atol=1e-10)


def capture_text(here: Standing) -> int:
    return here.passes[0].conditioning.embeds.shape[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ALL)
def test_nothing_passes_from_region_to_region(name, dtype) -> None:
    here = standing(name, dtype=dtype)
    masks = torch.cat([halves(2), torch.ones(2, 1, 8, 12), torch.zeros(2, 1, 8, 12)], dim=1)
    cases = {
        "apart": halves(2),
        "overlapping": torch.ones(1, 2, 8, 12),
        "full and empty": masks[:, [0, 3]],
        "all": masks,
    }
    for regions in cases.values():
        capture = {"all": Columns(image_layers(), keys="image")}
        got = here.predict(bias=(Isolation(regions),), capture=capture)
        assert all(torch.isfinite(p).all() for p in got.values())
        for layer in here.run.maps["cond"]["all"]:
            banned = Isolation(regions).blocks(layer.grid, 0, CPU)["image", "image"].isneginf()
            assert (layer.values[:, 0][banned.expand(2, -1, -1)] == 0).all()
            assert torch.isfinite(layer.values).all()
            if layer.site.keys == "image":
                sums = layer.values.sum(-1)
                assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
    assert Isolation(halves()).blocks((8, 12), 0, CPU)["image", "image"].isneginf().any()


def test_isolation_stops_what_changes_in_one_region_from_reaching_another() -> None:
    """One self-attention layer: values of the right do not reach the left, and the strip does."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 96, 4)
    bias = merged(
        Isolation(halves()).blocks((8, 12), 0, CPU)["image", "image"][:, None], None, torch.float32
    )
    right = halves()[0, 1].flatten() > 0
    left = halves()[0, 0].flatten() > 0
    changed = v.clone()
    changed[:, :, right] += 10
    one, other = (
        scaled_dot_product_attention(q, k, values, attn_mask=bias) for values in (v, changed)
    )
    assert torch.equal(one[:, :, left], other[:, :, left])
    assert not torch.equal(one[:, :, ~left & ~right], other[:, :, ~left & ~right])


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_biases_follow_their_pass_and_image_however_calls_are_split(name) -> None:
    here = standing(name, images=3)
    masks = halves(3)
    masks[2] = masks[0].flip(-1)
    chosen = (Isolation(masks), TextBias(masks, words(capture_text(here), 3)))
    whole = here.predict(bias=chosen)
    for budget in (1, 2, 4):
        split = standing(name, images=3, row_budget=budget).predict(bias=chosen)
        for side, prediction in whole.items():
            assert torch.allclose(split[side], prediction, rtol=1e-8, atol=1e-10)
    alone = standing(name, images=3, row_budget=1)
    passes = [replace(p, bias=chosen if p.name == "uncond" else ()) for p in alone.passes]
    with torch.no_grad():
        other = alone.run.predict(alone.latents, alone.step, passes)
    assert torch.allclose(other["cond"], alone.predict()["cond"], rtol=1e-8, atol=1e-10)
    assert not torch.allclose(other["uncond"], whole["uncond"])


def test_a_bias_of_nothing_changes_nothing_beyond_rounding() -> None:
    here = standing("sd15")
    nothing = (Isolation(torch.zeros(1, 2, 8, 12)), TextBias(halves(), torch.zeros(1, 77, 2)))
    got, plain = here.predict(bias=nothing), here.predict()
    assert torch.allclose(got["cond"], plain["cond"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("bias", "error", "told"),
    [
        (Isolation(halves(), text_layers()), CaptureError, r"Isolation was to act at .*attn2"),
        (
            Isolation(halves(), image_layers(level=7)),
            CaptureError,
            r"Isolation of pass cond.*level=7",
        ),
        (TextBias(halves(), words(9)), ShapeError, "9 text tokens met 77"),
        (Isolation(halves(3)), ShapeError, "pass cond of 3 rows met a pass over 2 images"),
    ],
)
def test_biases_that_make_no_sense_are_refused(bias, error, told) -> None:
    with pytest.raises(error, match=told):
        standing("sd15").predict(bias=(bias,))


def test_masks_and_words_of_other_regions_are_refused() -> None:
    for kind in (TextBias, RegionBlocks):
        with pytest.raises(ShapeError, match="words"):
            kind(halves(), torch.zeros(1, 77, 3))

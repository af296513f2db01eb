"""Captured attention against attention written out, on every family."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from compose.attention.capture import Columns, LayerCapture, Outputs
from compose.attention.layers import Images, image_layers, text_layers
from compose.errors import CaptureError, ShapeError
from tests.attention.explicit import explicit
from tests.attention.runs import ALL, Standing, standing
from tests.families import FAMILIES
from tests.tiny_sd3 import tiny_sd3

WORDS = ((1, 2, 5), (3, 0, 6))
"""Text positions, other ones for every image."""


def close(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    assert torch.allclose(got, expected, rtol=1e-8, atol=1e-10)


@dataclass(frozen=True)
class Spans:
    """Where image and text are in a layer, by hand: FLUX has the text first, SD3 the image."""

    grid: tuple[int, int]
    queries: dict[str, slice]
    keys: dict[str, slice]


GRIDS = {
    "sd15": {0: (16, 24), 1: (8, 12), 2: (4, 6)},
    "sdxl": {0: (16, 24), 1: (8, 12), 2: (4, 6)},
    "sd3": {None: (8, 12)},
    "flux": {None: (8, 12)},
}


def places(here: Standing, name: str) -> dict:
    text = here.passes[0].conditioning.embeds.shape[1]
    found = {}
    for site in here.family.attention_layers():
        h, w = GRIDS[name][site.level]
        n, t = h * w, text
        image = {"image": slice(0, n)}
        if site.keys == "joint" and name == "flux":
            keys = queries = {"text": slice(0, t), "image": slice(t, t + n)}
        elif site.keys == "joint":
            keys = queries = {"image": slice(0, n), "text": slice(n, n + t)}
        else:
            queries, keys = image, image if site.keys == "image" else {"text": slice(0, t)}
        found[site] = Spans((h, w), queries, keys)
    return found


def written_out(here: Standing, name: str, **more) -> dict:
    """Site to explicit attention of the rows of "cond", which come last."""
    layers = here.family.attention_layers()
    with explicit(name, layers) as found:
        here.predict(**more)
    return found


@pytest.mark.parametrize("name", ALL)
def test_columns_are_those_of_a_softmax_written_out(name) -> None:
    here = standing(name)
    oracle = written_out(here, name)
    asked = {
        "full": Columns(text_layers(), WORDS),
        "heads": Columns(text_layers(), WORDS, heads=True),
        "text": Columns(text_layers(), WORDS, norm="text"),
        "none": Columns(text_layers(), WORDS, norm="none"),
        "all": Columns(text_layers()),
        "self": Columns(image_layers(), ((4, 7),), keys="image"),
    }
    here.predict(capture=asked)
    assert list(here.run.maps) == ["cond"]
    got = here.run.maps["cond"]
    at = places(here, name)
    chosen = [site for site in at if site.keys != "image"]
    assert {layer.site for layer in got["full"]} == set(chosen)
    for name_of, capture in asked.items():
        assert len(got[name_of]) == sum(map(capture.layers, at))
        for layer in got[name_of]:
            close(layer.values, _expected(capture, oracle[layer.site], at[layer.site]))
            assert layer.grid == at[layer.site].grid


def _expected(capture: Columns, attention, place: Spans) -> Tensor:
    queries, keys = place.queries[capture.queries], place.keys[capture.keys]
    logits = attention.logits[2:]
    if capture.norm == "none":
        values = logits[:, :, queries, keys]
    elif capture.norm == "text":
        values = logits[:, :, queries, keys].softmax(-1)
    else:
        values = attention.probabilities[2:, :, queries, keys]
    if capture.queries == "text":
        values = values.transpose(-1, -2)
    if capture.positions is not None:
        rows = capture.positions if len(capture.positions) == 2 else capture.positions * 2
        values = torch.stack([v[..., list(row)] for v, row in zip(values, rows, strict=True)])
    return values if capture.heads else values.mean(1, keepdim=True)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_text_that_attends_to_the_image(name) -> None:
    here = standing(name)
    oracle, at = written_out(here, name), places(here, name)
    for capture in (
        Columns(text_layers(), WORDS, queries="text", keys="image"),
        Columns(text_layers(), None, queries="text", keys="image", norm="none", heads=True),
    ):
        here.predict(capture={"back": capture})
        for layer in here.run.maps["cond"]["back"]:
            close(layer.values, _expected(capture, oracle[layer.site], at[layer.site]))


@pytest.mark.parametrize("name", ALL)
def test_probabilities_over_all_text_sum_to_one_in_cross_attention_and_to_less_in_joint(
    name,
) -> None:
    here = standing(name, dtype=torch.float32)
    here.predict(
        capture={"all": Columns(text_layers()), "text": Columns(text_layers(), norm="text")}
    )
    for full, text in zip(*here.run.maps["cond"].values(), strict=True):
        sums = full.values.sum(-1)
        assert torch.allclose(text.values.sum(-1), torch.ones_like(sums), atol=1e-5)
        if full.site.keys == "text":
            assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
        else:
            assert (sums < 1).all() and (sums > 0).all()


@pytest.mark.parametrize("name", ALL)
def test_outputs_are_those_of_the_layer(name) -> None:
    here = standing(name)
    oracle, at = written_out(here, name), places(here, name)
    here.predict(capture={"h": Outputs(image_layers())})
    captured = here.run.maps["cond"]["h"]
    assert len(captured) == sum(map(image_layers(), at))
    for layer in captured:
        queries = at[layer.site].queries["image"]
        close(layer.values, oracle[layer.site].outputs[2:, :, queries])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_predictions_are_bit_equal_with_and_without_capture(name, dtype, tmp_path) -> None:
    pipe = FAMILIES[name].build()
    here = standing(name, dtype=dtype, pipe=pipe, paths=FAMILIES[name].files(tmp_path))
    capture = {
        "a": Columns(text_layers(), WORDS),
        "b": Columns(image_layers(), keys="image"),
        "c": Outputs(text_layers()),
    }
    without, under = here.predict(), here.predict(capture=capture)
    assert all(torch.equal(without[n], under[n]) for n in without)
    assert all(torch.isfinite(c.values).all() for m in here.run.maps["cond"].values() for c in m)
    assert here.predict() and here.run.maps == {}


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_rows_find_their_passes_and_images_however_calls_are_split(name) -> None:
    words = Columns(text_layers(), (*WORDS, (4, 4, 1)))
    capture = {"words": words, "h": Outputs(text_layers())}
    here = standing(name, images=3)
    here.predict(capture=capture)
    whole = here.run.maps["cond"]
    for budget in (1, 2, 4):
        split = standing(name, images=3, row_budget=budget)
        split.predict(capture=capture)
        for key, layers in whole.items():
            parts = {layer.site: layer for layer in split.run.maps["cond"][key]}
            for layer in layers:
                close(parts[layer.site].values, layer.values)


def test_every_pass_has_captures_of_its_own() -> None:
    here = standing("sd15")
    one, other = here.passes
    capture = {"one": Columns(text_layers(1), ((1,),))}, {"two": Columns(text_layers(2), ((2,),))}
    passes = here.under(capture=capture[1])
    passes[0] = type(one)(one.name, one.conditioning, one.gate, capture=capture[0])
    with torch.no_grad():
        here.run.predict(here.latents, here.step, passes)
    assert {n: list(maps) for n, maps in here.run.maps.items()} == {
        "uncond": ["one"],
        "cond": ["two"],
    }
    assert {layer.grid for layer in here.run.maps["uncond"]["one"]} == {(8, 12)}
    assert {layer.grid for layer in here.run.maps["cond"]["two"]} == {(4, 6)}
    here.predict(capture=capture[0])
    alone = here.run.maps["cond"]["one"]
    assert not torch.allclose(alone[0].values, here.run.maps["cond"]["one"][-1].values[:, :, :1])
    assert other.name == "cond"


def test_image_only_layers_of_stable_diffusion_3_5_are_self_attention() -> None:
    here = standing("sd3", pipe=tiny_sd3(medium=True))
    oracle, at = written_out(here, "sd3"), places(here, "sd3")
    rule = lambda site: site.keys == "image"  # noqa: E731
    capture = Columns(rule, ((0, 9),), keys="image")
    here.predict(capture={"own": capture, "text": Columns(text_layers(), ((1,),))})
    (layer,) = here.run.maps["cond"]["own"]
    assert layer.site.path.endswith("attn2")
    close(layer.values, _expected(capture, oracle[layer.site], at[layer.site]))
    assert len(here.run.maps["cond"]["text"]) == 2


@pytest.mark.parametrize("name", ALL)
def test_attention_alone_is_that_of_the_whole_call_and_stops_early(name) -> None:
    here = standing(name)
    first = next(iter(here.family.attention_layers()))
    capture = {"words": Columns(lambda site: site == first, ((1,),), keys=_side(first))}
    here.predict(capture=capture)
    (whole,) = here.run.maps["cond"]["words"]
    ran = []
    hook = here.family.denoiser.register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        got = here.run.attention(here.latents, here.step, here.under(capture=capture))
    assert ran == []
    here.predict(capture=capture)
    hook.remove()
    assert ran == [1]
    close(got["cond"]["words"][0].values, whole.values)


def _side(site):
    return "image" if site.keys == "image" else "text"


@pytest.mark.parametrize(
    ("capture", "words"),
    [
        (Columns(text_layers(level=9)), "a of pass cond chooses no attention layer.*level=9"),
        (Columns(text_layers(), ((1, 77),)), "positions \\[1, 77\\].*0 to 76"),
        (Columns(text_layers(), ((-1,),)), "positions"),
        (
            Columns(text_layers(), queries="text", keys="image"),
            "attn2.*image tokens attend to text",
        ),
        (Columns(image_layers()), "attn1.*choose other layers"),
    ],
)
def test_captures_that_make_no_sense_are_refused(capture, words) -> None:
    with pytest.raises(CaptureError, match=words):
        standing("sd15").predict(capture={"a": capture})


def test_captures_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(CaptureError, match="text that attends to text"):
        Columns(text_layers(), queries="text")
    with pytest.raises(CaptureError, match="norm text"):
        Columns(image_layers(), keys="image", norm="text")
    with pytest.raises(ShapeError, match="\\[1, 2\\]"):
        Columns(text_layers(), ((1,), (1, 2)))
    with pytest.raises(ShapeError, match="3 rows"):
        standing("sd15").predict(capture={"a": Columns(text_layers(), ((1,), (2,), (3,)))})
    here = standing("sd15")
    with pytest.raises(CaptureError, match="uncond, cond"):
        here.run.attention(here.latents, here.step, here.passes)


def test_a_layer_that_does_not_run_is_told() -> None:
    from compose.attention.watch import Watch, Watched

    here = standing("sd15")
    layers = here.family.attention_layers()
    capture = {"a": Columns(text_layers(2))}
    rows = Watched("cond", slice(0, 2), Images(0, 2, 2), capture)
    watch = Watch(layers, here.family.layout(here.latents), 77, [rows])
    told = pytest.raises(CaptureError, match=r"mid_block\S+attn2, which did not run")
    with told, watch.watching():
        pass


def test_captured_rows_are_joined_in_order() -> None:
    from compose.attention.capture import Record, gathered

    site = next(iter(standing("sd15").family.attention_layers()))
    records = [
        Record("p", "a", LayerCapture(site, (1, 2), torch.full((1, 1, 2, 1), float(i))))
        for i in range(3)
    ]
    (layer,) = gathered(records)["p"]["a"]
    assert layer.values[:, 0, 0, 0].tolist() == [0.0, 1.0, 2.0]

"""Between a layer and its softmax: what is inside stays in effect, nothing stays behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    PAGCFGIdentitySelfAttnProcessor2_0,
)
from torch import Tensor
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack

from compose.attention.bias import Isolation
from compose.attention.capture import Columns, Outputs
from compose.attention.intercept import AttentionCall, intercepted
from compose.attention.layers import Images, image_layers, text_layers
from compose.attention.watch import Watch, Watched
from compose.errors import CaptureError
from tests.attachment.test_oracles import ip_adapter
from tests.attention.runs import ALL, standing

CAPTURE = {"words": Columns(text_layers(), ((1, 4),)), "h": Outputs(image_layers())}


def state(family) -> list[tuple[Any, ...]]:
    """All that interception could leave behind in a denoiser."""
    return [
        (
            path,
            id(module),
            sorted(vars(module)),
            id(vars(module).get("forward")),
            id(getattr(module, "processor", None)),
            getattr(getattr(module, "processor", None), "_attention_backend", None),
        )
        for path, module in family.denoiser.named_modules()
    ]


@pytest.mark.parametrize("name", ALL)
def test_nothing_stays_behind(name) -> None:
    here = standing(name)
    before = state(here.family)
    masks = torch.zeros(1, 2, 4, 4)
    masks[:, 0, :, :2] = masks[:, 1, :, 2:] = 1
    here.predict(capture=CAPTURE, bias=(Isolation(masks),))
    assert state(here.family) == before
    with torch.no_grad():
        here.run.attention(here.latents, here.step, here.under(capture=CAPTURE))
    assert state(here.family) == before
    assert _get_current_function_mode_stack() == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["to_q", "to_out.0"])
@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_nothing_stays_behind_after_an_exception(name, where, error) -> None:
    here = standing(name)
    here.predict(capture=CAPTURE)
    before, seen = state(here.family), here.run.maps
    layer = list(here.family.attention_layers().values())[1]

    def fail(*_: Any) -> None:
        raise error("stop")

    hook = layer.get_submodule(where).register_forward_hook(fail)
    with pytest.raises(error, match="stop"):
        here.predict(capture=CAPTURE)
    hook.remove()
    assert state(here.family) == before
    assert _get_current_function_mode_stack() == []
    assert here.run.maps is seen
    here.predict(capture=CAPTURE)


def test_a_forward_that_others_have_shadowed_comes_back() -> None:
    here = standing("sd15")
    layer: Any = next(iter(here.family.attention_layers().values()))
    inner, calls = layer.forward, []

    def theirs(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return inner(*args, **kwargs)

    layer.forward = theirs
    here.predict(capture=CAPTURE)
    assert layer.forward is theirs and calls == [1]


def test_what_is_called_outside_the_layer_is_not_seen() -> None:
    layer = torch.nn.Identity()
    q = torch.randn(1, 1, 3, 4)
    seen: list[int] = []

    def handler(call: AttentionCall) -> Tensor:
        seen.append(call.number)
        return call.attend()

    with intercepted(layer, handler, name="layer", wish="something"):
        functional.scaled_dot_product_attention(q, q, q)
        with pytest.raises(CaptureError, match="something at layer, but its Identity never"):
            layer(q)
    assert seen == []


def test_calls_are_read_however_their_arguments_are_given() -> None:
    q, k, v = torch.randn(3, 2, 1, 3, 4)
    mask = torch.randn(3, 3)

    class Layer(torch.nn.Module):
        def forward(self) -> list[Tensor]:
            sdpa = functional.scaled_dot_product_attention
            return [
                sdpa(q, k, v),
                sdpa(q, k, v, mask, 0.0, False, scale=0.5),
                sdpa(value=v, query=q, key=k, attn_mask=mask, scale=0.5),
            ]

    calls: list[AttentionCall] = []

    def handler(call: AttentionCall) -> Tensor:
        calls.append(call)
        return call.attend_under(mask + 1)  # the same for all keys

    layer = Layer()
    expected = layer()
    with intercepted(layer, handler, name="layer", wish=""):
        got = layer()
    assert [call.number for call in calls] == [0, 1, 2]
    assert all(c.query is q and c.key is k and c.value is v and c.plain for c in calls)
    assert [call.scale for call in calls] == [0.5, 0.5, 0.5]  # 1 / sqrt(4)
    assert calls[0].mask is None and calls[1].mask is mask and calls[2].mask is mask
    assert torch.allclose(got[1], expected[1]) and torch.allclose(got[2], expected[2])
    assert not torch.allclose(got[0], expected[0])


def heard(modules) -> dict:
    """Module to its latest output, from now on."""
    found: dict = {}
    for module in modules:
        module.register_forward_hook(lambda m, args, out: found.update({m: out}))
    return found


def test_an_ip_adapter_stays_in_effect_and_its_image_is_no_text() -> None:
    here = standing("sd15", images=1, dtype=torch.float32)
    unet: Any = here.family.denoiser
    torch.manual_seed(0)
    unet._load_ip_adapter_weights([ip_adapter()])
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [1.5]
    layers = here.family.attention_layers()
    assert len(layers) == 14  # none of those that read the image
    text = torch.cat([p.conditioning.embeds for p in here.passes])
    latents = torch.cat([here.latents] * 2)

    def call(scale: float) -> Tensor:
        pictures = [scale * torch.ones(2, 1, 24)]
        return unet(latents, 5, text, added_cond_kwargs={"image_embeds": pictures}).sample

    rows = Watched("p", slice(0, 2), Images(0, 2, 2), {"all": Columns(text_layers(), heads=True)})
    watch = Watch(layers, here.family.layout(latents), 77, [rows])
    with torch.no_grad():
        plain, other = call(1.0), call(-1.0)
        projections = heard(m for layer in layers.values() for m in (layer.to_q, layer.to_k))
        with watch.watching():
            got = call(1.0)
    assert torch.equal(got, plain) and not torch.allclose(got, other)
    assert len(watch.records) == 7
    for record in watch.records:
        layer: Any = layers[record.layer.site]
        query, key = (
            projections[m].unflatten(-1, (layer.heads, -1)).transpose(1, 2)
            for m in (layer.to_q, layer.to_k)
        )
        expected = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        assert torch.allclose(record.layer.values, expected, atol=1e-6)


class Doubling(AttnProcessor2_0):
    """A user's own."""

    def __call__(self, attn, hidden_states, *args: Any, **kwargs: Any) -> Tensor:
        return super().__call__(attn, 2 * hidden_states, *args, **kwargs)


def test_a_processor_of_ones_own_stays_in_effect() -> None:
    here = standing("sd15")
    stock = here.predict()
    here.family.denoiser.set_attn_processor(Doubling())
    own = here.predict()
    under = here.predict(capture=CAPTURE)
    assert torch.equal(own["cond"], under["cond"])
    assert not torch.allclose(own["cond"], stock["cond"])


def test_a_processor_without_softmax_to_see_is_refused_by_name() -> None:
    here = standing("sd15")
    site, layer = list(here.family.attention_layers().items())[1]
    layer.processor = AttnProcessor()  # multiplies in batches
    rule = Columns(lambda s: s == site, ((1,),))
    with pytest.raises(
        CaptureError, match=rf"captured at {site.path}, but its AttnProcessor never"
    ):
        here.predict(capture={"a": rule})
    masks = torch.ones(1, 1, 4, 4)
    first, other = next(iter(here.family.attention_layers().items()))
    other.processor = AttnProcessor()
    with pytest.raises(CaptureError, match=r"biased at .*attn1, but its AttnProcessor never"):
        here.predict(bias=(Isolation(masks, lambda s: s == first),))
    here.predict(capture={"b": Columns(text_layers(2), ((1,),))})  # other layers are none of it


def test_other_layers_keep_what_they_have() -> None:
    """A processor that would fail under interception runs untouched beside captured layers."""
    here = standing("sd15")
    for site, layer in here.family.attention_layers().items():
        if site.level != 2:
            layer.processor = AttnProcessor()
    expected = here.predict()
    got = here.predict(capture={"mid": Columns(text_layers(2), ((1,),))})
    assert torch.equal(got["cond"], expected["cond"])


def test_a_layer_that_splits_its_rows_is_refused() -> None:
    here = standing("sd15", images=3)
    first, layer = next(iter(here.family.attention_layers().items()))
    layer.processor = PAGCFGIdentitySelfAttnProcessor2_0()  # thirds of the batch
    capture = {"a": Columns(lambda s: s == first, ((1,),), keys="image")}
    with pytest.raises(CaptureError, match=r"attention of 4 rows.*expected 6 rows"):
        here.predict(capture=capture)


def test_a_grid_is_never_guessed() -> None:
    """Queries that are not the layout's grid, as token merging leaves them, are refused."""

    class Merging(AttnProcessor2_0):
        def __call__(self, attn, hidden_states, *args: Any, **kwargs: Any) -> Tensor:
            out = super().__call__(attn, hidden_states[:, ::2], *args, **kwargs)
            return out.repeat_interleave(2, dim=1)

    here = standing("sd15")
    here.family.denoiser.set_attn_processor(Merging())
    with pytest.raises(CaptureError, match=r"192 queries.* expected 4 rows, 384 queries"):
        here.predict(capture=CAPTURE)


def test_a_causal_layer_is_refused() -> None:
    class Causal(AttnProcessor2_0):
        def __call__(self, attn, hidden_states, *args: Any, **kwargs: Any) -> Tensor:
            q = hidden_states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            out = functional.scaled_dot_product_attention(q, q, q, is_causal=True)
            return out.transpose(1, 2).flatten(2)

    here = standing("sd15")
    first, layer = next(iter(here.family.attention_layers().items()))
    layer.processor = Causal()
    with pytest.raises(CaptureError, match="causal"):
        here.predict(capture={"h": Outputs(lambda s: s == first)})


def test_a_mask_that_is_there_is_part_of_what_is_captured() -> None:
    """Text padding, as a mask of the UNet's cross-attention."""
    here = standing("sd15", images=1)
    unet: Any = here.family.denoiser
    text = torch.cat([p.conditioning.embeds for p in here.passes])
    latents = torch.cat([here.latents] * 2)
    padding = torch.ones(2, 77)
    padding[0, 5:] = padding[1, 9:] = 0
    rows = [
        Watched(str(i), slice(i, i + 1), Images(0, 1, 1), {"all": Columns(text_layers())})
        for i in range(2)
    ]
    watch = Watch(here.family.attention_layers(), here.family.layout(latents), 77, rows)
    with torch.no_grad(), watch.watching():
        unet(latents, 5, text, encoder_attention_mask=padding)
    for record in watch.records:
        first = (5, 9)[int(record.of)]
        values = record.layer.values
        assert values[..., first:].abs().max() == 0
        assert torch.allclose(values.sum(-1), torch.ones_like(values.sum(-1)), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("sd15", "mid_block.attentions.0.transformer_blocks.0"),
        ("flux", "single_transformer_blocks.1"),
    ],
)
def test_a_compiled_block_is_captured_alike(name, block) -> None:
    here = standing(name, images=1, dtype=torch.float32)
    here.predict(capture=CAPTURE)
    expected = here.run.maps["cond"]["words"]
    here.family.denoiser.get_submodule(block).compile(backend="eager")
    plain = here.predict()
    under = here.predict(capture=CAPTURE)
    got = here.run.maps["cond"]["words"]
    torch._dynamo.reset()
    assert all(torch.equal(under[n], p) for n, p in plain.items())
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.allclose(ours.values, theirs.values, atol=1e-6)


def test_passes_are_plain_data() -> None:
    here = standing("sd15")
    one = here.passes[0]
    assert one.capture == {} and one.bias == ()
    assert replace(one, capture=CAPTURE).capture is CAPTURE

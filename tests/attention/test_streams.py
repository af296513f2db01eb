"""Streams: texts that join a row in cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compose.attention import Columns, Stream, image_layers, text_layers
from compose.attention.layers import cross_layers
from compose.errors import CaptureError, ShapeError
from compose.gate import Gate
from compose.passes import Pass
from compose.types import Conditioning
from tests import engine
from tests.attention.explicit import heads
from tests.attention.runs import Standing, standing
from tests.families import FAMILIES

CROSSING = ("sd15", "sdxl")
TEXTS = ("a red mochi", "a blue dog on the left")


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert float((got - expected).abs().max()) <= tolerance * float(expected.abs().max())


def halves(height: int = 4, width: int = 8) -> tuple[Tensor, Tensor]:
    """The left half and the right half, [1, H, W] each."""
    left = torch.zeros(1, height, width)
    left[..., : width // 2] = 1
    return left, 1 - left


@dataclass(frozen=True)
class Spoken:
    """A run with three adapters that stands at its second step."""

    here: Standing

    def text(self, *prompts: str) -> Conditioning:
        """A text for every image, or one for all."""
        images = self.here.run.images
        chosen = prompts if len(prompts) == images else prompts * images
        with torch.no_grad():
            return self.here.run.encode(chosen, [0.0] * 3)

    def stream(self, k: int, place: Tensor, text: Conditioning, **more: Any) -> Stream:
        return Stream(f"s{k}", text, Gate.one(k, 3), place, **more)

    @property
    def cond(self) -> Pass:
        return self.here.passes[-1]

    @property
    def layers(self) -> dict[str, Any]:
        found = self.here.family.attention_layers()
        return {site.path: module for site, module in found.items() if cross_layers()(site)}


@pytest.fixture(scope="module", params=CROSSING)
def spoken(request: Any, tmp_path_factory: Any) -> Spoken:
    paths = FAMILIES[request.param].files(tmp_path_factory.mktemp(request.param))
    return Spoken(standing(request.param, paths=paths))


def places(kind: str) -> Sequence[Tensor]:
    left, right = halves()
    corner = torch.zeros(1, 12, 20)
    corner[:, :5, 3:9] = 1
    full = torch.ones(1, 1, 1)
    return {
        "one": (corner,),
        "parted": (left, right),
        "twice the same": (corner, corner),
        "everywhere": (full,),
        "soft and overlapping": (0.3 * left, 0.9 * corner, full),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["one", "parted", "twice the same", "everywhere", "soft and overlapping"]
)
def test_the_own_text_under_the_own_gate_changes_nothing(spoken: Spoken, kind: str) -> None:
    cond = spoken.cond
    streams = [Stream(f"{i}", cond.conditioning, cond.gate, m) for i, m in enumerate(places(kind))]
    expected = spoken.here.predict()
    got = spoken.here.predict(streams=streams)
    for name in ("uncond", "cond"):
        close(got[name], expected[name])


def test_a_layer_is_put_together_from_what_each_text_says(spoken: Spoken) -> None:
    """Every layer of cross-attention against the formula, for its own inputs: queries of the row,
    keys, values and output of the text that a place belongs to.
    """
    here, layers = spoken.here, spoken.layers
    left, right = halves()
    texts = [spoken.text(*TEXTS), spoken.text("cat")]
    there = torch.cat([left, right])  # the first stream stands elsewhere in the second image
    streams = [spoken.stream(0, there, texts[0]), spoken.stream(1, 1 - there, texts[1])]
    seen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def keep(path: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, out: Tensor) -> None:
            seen[path] = (args[0], kwargs["encoder_hidden_states"], out)

        return hook

    hooks = [m.register_forward_hook(keep(p), with_kwargs=True) for p, m in layers.items()]
    here.predict(streams=streams)
    for hook in hooks:
        hook.remove()
    slot = here.run.slots["unet"]
    layout = here.family.layout(here.latents)
    assert seen.keys() == layers.keys()
    with torch.no_grad():
        for path, (x, own, out) in seen.items():
            layer = layers[path]
            assert x.shape[0] == out.shape[0] == 4  # two images, two passes
            with slot.hold(here.passes[0].gate.expand(2)):
                close(out[:2], layer(x[:2], own[:2]))
            with slot.hold(spoken.cond.gate.expand(2)):
                query = heads(layer.to_q(x[2:]), layer)
            said = []
            for k, text in enumerate(texts):
                with slot.hold(Gate.one(k, 3).expand(2)):
                    key, value = (heads(m(text.embeds), layer) for m in (layer.to_k, layer.to_v))
                    chances = (query @ key.transpose(-1, -2) * layer.scale).softmax(-1)
                    said.append(layer.to_out[0]((chances @ value).transpose(1, 2).flatten(2)))
            site = next(s for s in here.family.attention_layers() if s.path == path)
            grid = layout.grid(site.level or 0)
            mask = torch.nn.functional.adaptive_avg_pool2d(there.double(), grid)
            share = mask.flatten(1)[..., None]
            close(out[2:], share * said[0] + (1 - share) * said[1])


def test_what_no_stream_takes_is_left_to_the_pass(spoken: Spoken) -> None:
    """Cells outside are those of the pass without streams, in the first layer that has any."""
    layer = next(iter(spoken.layers.values()))
    outs: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, args, out: outs.append(out))
    left, _ = halves()
    spoken.here.predict(streams=[spoken.stream(0, left, spoken.text("cat"))])
    spoken.here.predict()
    hook.remove()
    changed = (outs[0] - outs[1])[2:].abs().amax(-1)
    site = next(s for s, m in spoken.here.family.attention_layers().items() if m is layer)
    h, w = spoken.here.family.layout(spoken.here.latents).grid(site.level or 0)
    changed = changed.reshape(2, h, w)
    assert changed[..., : w // 2].min() > 1e-6
    assert changed[..., w // 2 :].max() < 1e-12


def test_a_stream_asks_with_the_queries_of_its_pass(spoken: Spoken) -> None:
    """Whatever its gate does to them."""
    left, _ = halves()
    text = spoken.text("a red cat")
    off_queries = replace(
        Gate.one(1, 3), site=lambda site: torch.full((3,), float(not site.path.endswith("to_q")))
    )
    stream = spoken.stream(1, left, text)
    expected = spoken.here.predict(streams=[stream])["cond"]
    got = spoken.here.predict(streams=[replace(stream, gate=off_queries)])["cond"]
    assert torch.equal(got, expected)
    assert (spoken.here.predict()["cond"] - expected).abs().max() > 1e-4


def test_a_place_smaller_than_a_cell_is_heard_in_every_layer(spoken: Spoken) -> None:
    spot = torch.zeros(1, 64, 96)
    spot[:, 30, 40] = 1
    outs: dict[str, list[Tensor]] = {path: [] for path in spoken.layers}
    ins: dict[str, list[Tensor]] = {path: [] for path in spoken.layers}
    hooks = []
    for path, module in spoken.layers.items():

        def keep(module: Any, args: Any, kwargs: Any, out: Tensor, path: str = path) -> None:
            ins[path].append(args[0])
            outs[path].append(out)

        hooks.append(module.register_forward_hook(keep, with_kwargs=True))
    spoken.here.predict(streams=[spoken.stream(0, spot, spoken.text("a red cat"))])
    for hook in hooks:
        hook.remove()
    slot, cond = spoken.here.run.slots["unet"], spoken.cond
    with torch.no_grad(), slot.hold(cond.gate.expand(2)):
        for path, layer in spoken.layers.items():
            plain = layer(ins[path][0][2:], cond.conditioning.embeds)
            apart = (outs[path][0][2:] - plain).abs().amax(-1)
            assert ((apart > 1e-8).sum(1) == 1).all(), path


def test_a_row_budget_changes_nothing(spoken: Spoken) -> None:
    left, right = halves()
    capture = {"words": Columns(text_layers(), ((1, 2), (4, 5)))}
    streams = [
        spoken.stream(0, torch.cat([left, right]), spoken.text(*TEXTS), capture=capture),
        spoken.stream(1, right, spoken.text("dog")),
    ]
    run = spoken.here.run
    expected, maps = spoken.here.predict(streams=streams), run.maps
    for budget in (1, 3):
        run.row_budget = budget
        got = spoken.here.predict(streams=streams)
        run.row_budget = None
        for name in ("uncond", "cond"):
            close(got[name], expected[name])
        for a, b in zip(run.maps["cond/s0"]["words"], maps["cond/s0"]["words"], strict=True):
            close(a.values, b.values)


def test_the_trace_tells_what_streams_saw(spoken: Spoken) -> None:
    left, _ = halves()
    gate = Gate(torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.25, 0.0]]))
    spoken.here.predict(streams=[replace(spoken.stream(0, left, spoken.text("cat")), gate=gate)])
    record = spoken.here.run.trace[-1]
    assert record.rows == ("uncond", "uncond", "cond", "cond")
    assert record.streams == (("cond/s0", (0.0, 0.5, 0.0)), ("cond/s0", (0.0, 0.25, 0.0)))


def test_captured_columns_of_a_stream_are_its_softmax_over_the_whole_grid(spoken: Spoken) -> None:
    left, _ = halves()
    text = spoken.text(*TEXTS)
    capture = {"all": Columns(text_layers())}
    plain = spoken.stream(0, left, text)
    expected = spoken.here.predict(streams=[plain])
    got = spoken.here.predict(streams=[replace(plain, capture=capture)])
    assert torch.equal(got["cond"], expected["cond"])
    captured = {layer.site.path: layer for layer in spoken.here.run.maps["cond/s0"]["all"]}
    assert captured.keys() == spoken.layers.keys()
    path, layer = next((p, m) for p, m in spoken.layers.items() if hasattr(m.to_k, "lora_down"))
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    spoken.here.predict(streams=[plain])
    hook.remove()
    slot = spoken.here.run.slots["unet"]
    with torch.no_grad():
        with slot.hold(spoken.cond.gate.expand(2)):
            query = heads(layer.to_q(inputs[0][2:]), layer)
        with slot.hold(Gate.one(0, 3).expand(2)):
            key = heads(layer.to_k(text.embeds), layer)
        chances = (query @ key.transpose(-1, -2) * layer.scale).softmax(-1).mean(1, keepdim=True)
    close(captured[path].values, chances)
    close(captured[path].values.sum(-1), torch.ones(1, dtype=torch.float64))


def test_gradients_lead_back_through_streams(spoken: Spoken) -> None:
    """Against finite differences, from a call that ends behind the last chosen layer."""
    here, run = spoken.here, spoken.here.run
    left, _ = halves()
    capture = {"word": Columns(text_layers(level=1), ((1,),))}
    stream = spoken.stream(0, left, spoken.text("mochi"), capture=capture)
    passes = here.under(streams=[stream])

    def loss(z: Tensor) -> Tensor:
        maps = run.attention(z, here.step, passes)
        assert list(maps) == ["cond/s0"]
        return torch.stack([layer.values.square().sum() for layer in maps["cond/s0"]["word"]]).sum()

    before = run.calls.rows
    with torch.enable_grad():
        z = here.latents.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(z), z)
    assert run.calls.rows == before + run.images  # the negative prompt's pass did not run
    direction = torch.randn(z.shape, generator=torch.Generator().manual_seed(5), dtype=z.dtype)
    with torch.no_grad():
        e = 1e-5
        slope = (loss(z + e * direction) - loss(z - e * direction)) / (2 * e)
    assert float(slope.abs()) > 0
    close((gradient * direction).sum(), slope, 1e-6)


def test_layers_are_as_before_after_an_error(spoken: Spoken) -> None:
    left, _ = halves()
    modules = list(spoken.here.family.denoiser.modules())
    with pytest.raises(CaptureError, match="split"):
        layer = next(iter(spoken.layers.values()))
        handle = layer.register_forward_pre_hook(
            lambda module, args, kwargs: ((args[0][:, 1:],), kwargs), with_kwargs=True
        )
        try:
            spoken.here.predict(streams=[spoken.stream(0, left, spoken.text("cat"))])
        finally:
            handle.remove()
    assert not any("forward" in vars(m) for m in modules)
    assert spoken.here.run.slots["unet"].gate is None


def test_texts_and_layers_that_do_not_fit_are_refused(spoken: Spoken) -> None:
    left, _ = halves()
    text = spoken.text("cat")
    short = replace(text, embeds=text.embeds[:, :5])
    with pytest.raises(ShapeError, match="s0 of pass cond has 5 text tokens and the pass 77"):
        spoken.here.predict(streams=[spoken.stream(0, left, short)])
    inward = {"self": Columns(image_layers(), keys="image")}
    with pytest.raises(CaptureError, match="self of pass cond/s0 chooses no attention layer"):
        spoken.here.predict(streams=[spoken.stream(0, left, text, capture=inward)])


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_model_without_cross_attention_is_refused(name: str) -> None:
    here = standing(name, images=1)
    cond = here.passes[-1]
    stream = Stream("s0", cond.conditioning, cond.gate, torch.ones(1, 1, 1))
    with pytest.raises(CaptureError, match=r"cross-attention, which this denoiser does not have"):
        here.predict(streams=[stream])


def test_a_layer_whose_softmax_is_out_of_sight_is_refused(tmp_path: Path) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    spoken = Spoken(standing("sd15", paths=engine.files(tmp_path)))
    layer = next(iter(spoken.layers.values()))
    layer.set_processor(AttnProcessor())
    left, _ = halves()
    with pytest.raises(CaptureError, match=r"texts for regions were to join at .* AttnProcessor "):
        spoken.here.predict(streams=[spoken.stream(0, left, spoken.text("cat"))])

"""Sites of Stable Diffusion 3 and FLUX against what the modules really see, and gates on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compose.adapters.formats import load_adapter
from compose.composer import Composer
from compose.gate import Gate
from compose.models.family import Family
from compose.slot import TokenLayout
from compose.types import Site, Size
from tests.models.joint import MODELS, Model

HEIGHT, WIDTH = 20, 28
GRID = (10, 14)
"""Of image tokens; as many as no text has tokens."""


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]


def step_of(family: Family):
    return family.schedule(4, None, Size(2 * WIDTH, 2 * HEIGHT)).step(1)


def shapes_seen(family: Family) -> dict[tuple[str, str], torch.Size]:
    """Component and path of every linear and convolution to the shape of what it sees in one call:
    the input of a linear, the output of a convolution.
    """
    seen: dict[tuple[str, str], torch.Size] = {}

    def note(component: str, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
            conv = isinstance(module, nn.Conv2d)
            seen[component, path] = out.shape if conv else args[0].shape

        return hook

    hooks = [
        module.register_forward_hook(note(component, path))
        for component, part in family.components.items()
        for path, module in part.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    with torch.no_grad():
        texts = family.encode(["cat", "dog"])
        family.predict(torch.zeros(2, 4, HEIGHT, WIDTH), step_of(family), texts, 3.0)
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(hooks)
    return seen


def test_streams_are_what_the_modules_see(model: Model) -> None:
    family = model.composer().family
    text = family.encode(["cat"]).embeds.shape[1]
    image = GRID[0] * GRID[1]
    streams = set()
    for (component, path), shape in shapes_seen(family).items():
        site = family.site(component, path, family.components[component].get_submodule(path))
        assert (site.component, site.path, site.level) == (component, path, 0)
        if component == "transformer":
            streams.add(site.stream)
        if site.kind == "conv":
            assert tuple(shape[2:]) == GRID and site.stream == "image", path
        elif site.stream == "vector":
            assert len(shape) == 2 and shape[0] == 2, path
        elif component != "transformer":
            assert len(shape) == 3 and site.stream == "text", path
        else:
            expected = {"image": image, "text": text, "joint": text + image}
            assert shape[1] == expected[site.stream], path
    flux = family.name == "flux"
    assert streams == {"image", "text", "vector"} | ({"joint"} if flux else set())


def test_the_layout_is_the_grid_of_the_tokens(model: Model) -> None:
    family = model.composer().family
    expected = TokenLayout(*GRID, text_first=family.name == "flux")
    assert family.layout(torch.zeros(1, 4, HEIGHT, WIDTH)) == expected


@pytest.mark.parametrize(
    ("name", "path", "block"),
    [
        ("sd3", "transformer_blocks.1.attn.to_q", "joint.1"),
        ("medium", "transformer_blocks.0.attn2.to_q", "joint.0"),
        ("sd3", "transformer_blocks.0.norm1.linear", "joint.0"),
        ("sd3", "pos_embed.proj", ""),
        ("dev", "transformer_blocks.1.ff.net.0.proj", "double.1"),
        ("dev", "single_transformer_blocks.0.proj_mlp", "single.0"),
        ("dev", "context_embedder", ""),
        ("dev", "proj_out", ""),
    ],
)
def test_blocks_are_named_after_their_place(name, path, block) -> None:
    family = MODELS[name].composer().family
    assert family.site("transformer", path, family.denoiser.get_submodule(path)).block == block


class Changes:
    """What two adapters change at every layer of one denoiser call under a gate."""

    def __init__(self, model: Model, folder: Path) -> None:
        self.composer: Composer = model.composer()
        self.paths = model.files(folder, (2, 3), only=("transformer",))
        parts = self.composer.family.components
        self.factors = [load_adapter(path, parts)[0].factors for path in self.paths]
        prepared = self.composer.prepare(model.request(self.paths, [1.0, 1.0]))
        self.composer._install(prepared.adapters)
        with torch.no_grad():
            self.texts = self.composer.family.encode(["cat and dog"])

    def under(self, gate: Gate) -> list[tuple[Site, Tensor, Tensor]]:
        """Of every gated layer: site, what it added, and what each adapter alone adds."""
        found: list[tuple[Site, Tensor, Tensor]] = []

        def hook(layer: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
            x, base, site = args[0], layer.base, layer.site
            each = []
            for factors in self.factors:
                delta = factors[site.name].delta()
                if site.kind == "conv":
                    each.append(functional.conv2d(x, delta, None, base.stride))
                else:
                    each.append(functional.linear(x, delta))
            found.append((site, out - base(x), torch.stack(each)))

        assert self.composer._installation is not None
        layers = self.composer._installation.layers.values()
        hooks = [layer.register_forward_hook(hook) for layer in layers]
        self.call(gate)
        for handle in hooks:
            handle.remove()
        assert len(found) == len(hooks)
        return [(s, tokens(d), torch.stack([tokens(e) for e in each])) for s, d, each in found]

    def call(self, gate: Gate) -> Tensor:
        family = self.composer.family
        x = torch.randn(1, 4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
        with torch.no_grad(), self.composer.slots["transformer"].hold(gate, family.layout(x)):
            return family.predict(x, step_of(family), self.texts, 3.0)


def tokens(x: Tensor) -> Tensor:
    """To [n, d], from [1, n, d], [1, d] or [1, d, h, w]."""
    return x[0] if x.ndim == 3 else x.flatten(2)[0].T if x.ndim == 4 else x


@pytest.fixture
def changes(model: Model, tmp_path: Path) -> Changes:
    return Changes(model, tmp_path)


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_text_gate_acts_on_its_tokens_and_nowhere_else(changes: Changes) -> None:
    """The first adapter on some tokens, the second on none: off them the change is exactly 0."""
    count = changes.texts.embeds.shape[1]
    on = torch.zeros(count, dtype=torch.bool)
    on[[0, 2, 5, count - 1]] = True
    text = torch.stack([on.float(), torch.zeros(count)], dim=1)[None]
    met = set()
    for site, change, each in changes.under(Gate(torch.ones(1, 2), text=text)):
        met.add(site.stream)
        if site.stream in ("image", "vector"):
            close(change, each.sum(0))
            continue
        assert torch.count_nonzero(change[:count][~on]) == 0, site.path
        assert change[:count][on].abs().max() > 1e-4
        close(change[:count][on], each[0][:count][on])
        if site.stream == "joint":
            close(change[count:], each.sum(0)[count:])
    assert "text" in met


def test_image_halves_get_an_adapter_each(changes: Changes) -> None:
    image = torch.zeros(1, 2, HEIGHT, WIDTH)
    image[:, 0, :, : WIDTH // 2] = 1
    image[:, 1, :, WIDTH // 2 :] = 1
    left = torch.zeros(GRID, dtype=torch.bool)
    left[:, : GRID[1] // 2] = True
    left = left.flatten()
    count = changes.texts.embeds.shape[1]
    for site, change, each in changes.under(Gate(torch.ones(1, 2), image=image)):
        if site.stream == "text":
            close(change, each.sum(0))
        elif site.stream == "vector":
            close(change, each.mean(0))
        else:
            if site.stream == "joint":
                close(change[:count], each.sum(0)[:count])
                change, each = change[count:], each[:, count:]
            close(change[left], each[0][left])
            close(change[~left], each[1][~left])
            assert (each[0] - each[1]).abs().max() > 1e-3


def test_adapters_of_text_layers_that_are_off_every_token_leave_the_base(model, tmp_path) -> None:
    changes = Changes(model, tmp_path)
    base = changes.call(Gate.off(2))
    text = torch.zeros(1, changes.texts.embeds.shape[1], 2)

    def only_text(site: Site) -> Tensor:
        return torch.full((2,), float(site.stream == "text"))

    assert torch.equal(changes.call(Gate(torch.ones(1, 2), text=text, site=only_text)), base)
    plain = changes.call(Gate(torch.ones(1, 2), site=only_text))
    assert (plain - base).abs().max() > 1e-3

"""One set of factors, every layout, one adapter; and the loaders of diffusers and PEFT agree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compose.adapters import Adapter, load_adapter, read_adapter, save_adapter
from compose.errors import AdapterFormatError, RequestError
from tests import tiny
from tests.adapters import layouts
from tests.adapters.layouts import LAYOUTS, Raw, Truth

Components = Mapping[str, nn.Module]


def assert_is_truth(adapter: Adapter, truth: Truth, exact: bool = True) -> None:
    sites = {f"{part}.{path}": raw for part, raws in truth.items() for path, raw in raws.items()}
    assert set(adapter.factors) == set(sites)
    for site, raw in sites.items():
        factors = adapter.factors[site]
        assert factors.down.shape == raw.down.shape
        assert torch.equal(factors.down, raw.down), site
        up = raw.folded.flatten(1)
        same = torch.equal if exact else torch.allclose
        assert same(factors.up, up), site


def run(parts: Components) -> tuple[Tensor, Tensor]:
    """What a UNet and a text encoder say to fixed input."""
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 4, tiny.SIDE, tiny.SIDE, generator=generator)
    text = torch.randn(1, 7, tiny.TEXT_WIDTH, generator=generator)
    with torch.no_grad():
        noise = parts["unet"](latents, torch.tensor([321]), encoder_hidden_states=text).sample
        tokens = torch.arange(3, 12)[None]
        words = parts["text_encoder"](tokens).last_hidden_state
    return noise, words


def merged(adapter: Adapter) -> tuple[Tensor, Tensor]:
    """What a model says with the dense changes added to its weights."""
    pipe = tiny.tiny_pipeline()
    parts = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    with torch.no_grad():
        for site, factors in adapter.factors.items():
            part, _, path = site.partition(".")
            parts[part].get_submodule(path).weight.add_(factors.delta())
    return run(parts)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_adapter(
    layout: str, components: Components, truth: Truth, tmp_path: Path
) -> None:
    path = LAYOUTS[layout](truth, tmp_path / "mochi.safetensors")
    adapter, report = load_adapter(path, components)
    assert_is_truth(adapter, truth)
    assert adapter.name == "mochi" and adapter.source == path
    assert report.unmatched == report.ignored == ()
    assert report.matched == tuple(adapter.factors)
    assert read_adapter(path).layout == layout.partition(",")[0]


def test_sites_follow_the_order_of_the_model(
    components: Components, truth: Truth, tmp_path: Path
) -> None:
    orders = set()
    for layout, write in LAYOUTS.items():
        adapter, _ = load_adapter(write(truth, tmp_path / f"{layout}.safetensors"), components)
        orders.add(tuple(adapter.factors))
    model = [f"{part}.{path}" for part, m in components.items() for path, _ in m.named_modules()]
    (order,) = orders
    assert list(order) == sorted(order, key=model.index)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_peft_folder_gives_the_same_adapter(
    part: str, rslora: bool, components: Components, truth: Truth, tmp_path: Path
) -> None:
    raws = dict(truth[part])
    if rslora:
        raws = {p: replace(r, alpha=r.alpha / r.rank**0.5) for p, r in raws.items()}
    folder = layouts.peft_folder(raws, tmp_path / "mochi", rslora=rslora)
    for path in (folder, folder / "adapter_model.safetensors"):
        adapter, report = load_adapter(path, components)
        assert_is_truth(adapter, {part: truth[part]}, exact=not rslora)
        assert adapter.name == "mochi" and adapter.source == folder
        assert report.unmatched == report.ignored == ()


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "diffusers-old"])
def test_diffusers_loads_the_same_change(
    layout: str, components: Components, truth: Truth, tmp_path: Path
) -> None:
    if layout == "kohya":  # diffusers 0.42 loses kohya's alphas where they differ between modules
        truth = {
            part: {path: replace(raw, alpha=2.5) for path, raw in raws.items()}
            for part, raws in truth.items()
        }
    path = LAYOUTS[layout](truth, tmp_path / "mochi.safetensors")
    adapter, _ = load_adapter(path, components)
    pipe = tiny.tiny_pipeline()
    pipe.load_lora_weights(str(path))
    theirs = run({"unet": pipe.unet, "text_encoder": pipe.text_encoder})
    for ours, other, base in zip(merged(adapter), theirs, run(components), strict=True):
        assert (other - base).abs().max() > 0.05, "the adapter must change something"
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_writes_and_loads_the_same_change(
    rslora: bool, components: Components, truth: Truth, tmp_path: Path
) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    patterns = ("rank_pattern", "alpha_pattern", "target_modules")
    settings = {k: v for k, v in layouts.lora_config(truth["unet"]).items() if k in patterns}
    torch.manual_seed(0)
    model = get_peft_model(
        tiny.tiny_pipeline().unet, LoraConfig(r=2, lora_alpha=5, use_rslora=rslora, **settings)
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(tmp_path / "made")

    adapter, report = load_adapter(tmp_path / "made", components)
    assert len(report.matched) == len(truth["unet"])
    again = PeftModel.from_pretrained(tiny.tiny_pipeline().unet, tmp_path / "made")
    theirs, _ = run({"unet": again, "text_encoder": components["text_encoder"]})
    ours, _ = merged(adapter)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_diffusers_reads_what_we_write(
    components: Components, truth: Truth, tmp_path: Path
) -> None:
    adapter, _ = load_adapter(layouts.kohya(truth, tmp_path / "a.safetensors"), components)
    save_adapter(adapter, tmp_path / "b.safetensors")
    pipe = tiny.tiny_pipeline()
    pipe.load_lora_weights(str(tmp_path / "b.safetensors"))
    theirs = run({"unet": pipe.unet, "text_encoder": pipe.text_encoder})
    for ours, other in zip(merged(adapter), theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


def test_saving_and_loading_keeps_every_bit(
    components: Components, truth: Truth, tmp_path: Path
) -> None:
    first, _ = load_adapter(layouts.kohya(truth, tmp_path / "a.safetensors"), components)
    first = replace(first, name="b", triggers=("mochi", "teal cat"), category="character")
    path = tmp_path / "deep" / "b.safetensors"
    save_adapter(first, path, metadata={"modelspec.title": "Mochi"})
    second, _ = load_adapter(path, components)
    assert second == replace(first, factors=second.factors, source=path)
    assert list(second.factors) == list(first.factors)
    for site, factors in first.factors.items():
        assert torch.equal(factors.down, second.factors[site].down)
        assert torch.equal(factors.up, second.factors[site].up)
    whole = path.read_bytes()
    save_adapter(second, path, metadata={"modelspec.title": "Mochi"})
    assert path.read_bytes() == whole
    assert [p.name for p in path.parent.iterdir()] == ["b.safetensors"]


def test_saving_in_half_precision(components: Components, truth: Truth, tmp_path: Path) -> None:
    first, _ = load_adapter(layouts.kohya(truth, tmp_path / "a.safetensors"), components)
    save_adapter(first, tmp_path / "b.safetensors", dtype=torch.float16)
    second, _ = load_adapter(tmp_path / "b.safetensors", components)
    for site, factors in first.factors.items():
        assert torch.equal(second.factors[site].up, factors.up.half().float())
        assert second.factors[site].up.dtype == torch.float32


def test_what_cannot_be_saved(components: Components, truth: Truth, tmp_path: Path) -> None:
    adapter, _ = load_adapter(layouts.kohya(truth, tmp_path / "a.safetensors"), components)
    with pytest.raises(RequestError, match=r"\.safetensors"):
        save_adapter(adapter, tmp_path / "a.bin")
    with pytest.raises(RequestError, match="changes no module"):
        save_adapter(Adapter("none", {}), tmp_path / "b.safetensors")
    site, factors = next(iter(adapter.factors.items()))
    huge = Adapter("huge", {site: replace(factors, up=factors.up * 1e9)})
    with pytest.raises(AdapterFormatError, match="NaN or infinity"):
        save_adapter(huge, tmp_path / "b.safetensors", dtype=torch.float16)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_becomes_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    down, up = torch.randn(3, 5).to(dtype), torch.randn(4, 3).to(dtype)
    tensors = {
        "unet.a.lora_A.weight": down,
        "unet.a.lora_B.weight": up,
        "unet.a.alpha": torch.tensor(6),  # some trainers write a whole number
    }
    (raw,) = read_adapter(layouts.write(tensors, tmp_path / "a.safetensors")).modules.values()
    assert raw.alpha == 6 and raw.down.dtype == raw.up.dtype == torch.float32
    assert torch.equal(raw.down, down.float()) and torch.equal(raw.up, up.float() * 2)


def test_factors_outlive_their_file(tmp_path: Path) -> None:
    tensors = {"unet.a.lora_A.weight": torch.ones(2, 3), "unet.a.lora_B.weight": torch.ones(4, 2)}
    path = layouts.write(tensors, tmp_path / "a.safetensors")
    (raw,) = read_adapter(path).modules.values()
    with path.open("r+b") as stream:
        stream.write(bytes(path.stat().st_size))
    assert torch.equal(raw.down, torch.ones(2, 3)) and torch.equal(raw.up, torch.ones(4, 2))


def test_patterns_of_peft_count_in_their_order(tmp_path: Path) -> None:
    paths = ("down.0.to_q", "down.1.to_q", "up.0.to_k", "up.10.to_k", "mid.to_v")
    raws = {p: Raw(torch.ones(2, 3), torch.ones(4, 2), 1.0) for p in paths}
    patterns = {"down.*to_q": 2, r"up\.\d+\.to_k": 4, "to_[a-v]": 6}
    folder = layouts.peft_folder(
        raws, tmp_path / "a", config={"lora_alpha": 8, "alpha_pattern": patterns}
    )
    found = {raw.pair.where.paths[0]: raw.alpha for raw in read_adapter(folder).modules.values()}
    assert found == dict(zip(paths, (2, 2, 4, 4, 6), strict=True))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"use_dora": True}, "DoRA"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"lora_alpha": "eight"}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"r": 7, "rank_pattern": {}}, "rank"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "pattern"),
        ({"alpha_pattern": [1]}, "alpha_pattern"),
    ],
)
def test_settings_that_are_no_plain_lora_are_refused(
    config: Mapping[str, object], says: str, tmp_path: Path
) -> None:
    raws = {"a.b": Raw(torch.ones(2, 3), torch.ones(4, 2), 1.0)}
    with pytest.raises(AdapterFormatError, match=says):
        read_adapter(layouts.peft_folder(raws, tmp_path / "a", config=config))


def test_settings_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    raws = {"a.b": Raw(torch.ones(2, 3), torch.ones(4, 2), 1.0)}
    folder = layouts.peft_folder(raws, tmp_path / "a")
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterFormatError, match=r"adapter_config\.json"):
        read_adapter(folder)
    (folder / "adapter_config.json").unlink()
    (warning,) = read_adapter(folder / "adapter_model.safetensors").warnings
    assert "alpha is unknown" in warning
    texts = {"lora_adapter_metadata": json.dumps([1])}
    tensors = {"unet.a.lora_A.weight": torch.ones(1, 1), "unet.a.lora_B.weight": torch.ones(1, 1)}
    path = layouts.write(tensors, tmp_path / "b.safetensors", texts)
    with pytest.raises(AdapterFormatError, match="lora_adapter_metadata"):
        read_adapter(path)

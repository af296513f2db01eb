"""Files of every family as diffusers' own LoRA loaders understand them: the same change by module.

Where they drop a module, or a scale, the test says so and compares with the formula instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_base import _load_lora_into_text_encoder
from diffusers.loaders.lora_pipeline import (
    FluxLoraLoaderMixin,
    SD3LoraLoaderMixin,
    StableDiffusionXLLoraLoaderMixin,
)
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn

from compose.adapters import Adapter, load_adapter
from tests.adapters import firsts, models
from tests.adapters.layouts import Raw, diffusers, write
from tests.adapters.spelled import kohya, random_raws
from tests.adapters.whole import Parts, clip_raws, flux, sd3, sdxl, truth_of

Deltas = dict[str, Tensor]


def deltas(parts: Parts) -> Deltas:
    """Site to the dense change that PEFT's layers in a model make."""
    found = {}
    for part, model in parts.items():
        for path, module in model.named_modules():
            if isinstance(module, LoraLayer):
                (name,) = module.lora_A
                found[f"{part}.{path}"] = module.get_delta_weight(name).detach()
    return found


def assert_same_change(adapter: Adapter, theirs: Deltas) -> None:
    assert set(adapter.factors) == set(theirs)
    for site, factors in adapter.factors.items():
        delta = factors.delta()
        assert float(delta.abs().max()) > 1e-3
        torch.testing.assert_close(delta, theirs[site], rtol=1e-5, atol=1e-6, msg=site)


def into_text_encoders(parts: Parts, state: dict[str, Tensor], alphas: Any, metadata: Any) -> None:
    for part, model in parts.items():
        if part.startswith("text_encoder") and any(k.startswith(f"{part}.") for k in state):
            _load_lora_into_text_encoder(
                state, alphas, model, prefix=part, adapter_name="a", metadata=metadata
            )


# --- SDXL


def sdxl_file(path: Path, alpha: float = 2.5) -> Path:
    """A kohya file for everything in a tiny SDXL, one alpha: diffusers 0.42 loses unequal ones."""
    unet = random_raws(firsts.sgm_unet(8, (1, 2, 4), 2, (0, 2, 3), 3, models.TEXT, models.ADDED))
    tensors: dict[str, Tensor] = {}
    for start, raws in (
        ("lora_unet_", unet),
        ("lora_te1_text_model_", clip_raws(16)),
        ("lora_te2_text_model_", clip_raws(12)),
    ):
        same = {name: replace(raw, alpha=alpha) for name, raw in raws.items()}
        tensors |= load_file(kohya(same, path.with_name("part.safetensors"), start))
    return write(tensors, path)


def test_kohya_for_sdxl(tmp_path: Path) -> None:
    path = sdxl_file(tmp_path / "a.safetensors")
    adapter, report = load_adapter(path, sdxl())
    assert report.unmatched == ()
    parts = sdxl()
    state, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
        str(path), unet_config=parts["unet"].config
    )
    parts["unet"].load_lora_adapter(state, prefix="unet", network_alphas=alphas)
    into_text_encoders(parts, state, alphas, None)
    assert_same_change(adapter, deltas(parts))


# --- diffusers' own names


@pytest.mark.parametrize(
    ("make", "denoiser", "loader"),
    [
        (sdxl, "unet", StableDiffusionXLLoraLoaderMixin),
        (sd3, "transformer", SD3LoraLoaderMixin),
        (flux, "transformer", FluxLoraLoaderMixin),
    ],
)
def test_diffusers_names(
    make: Callable[[], dict[str, nn.Module]], denoiser: str, loader: Any, tmp_path: Path
) -> None:
    parts = make()
    path = diffusers(truth_of(parts), tmp_path / "a.safetensors")
    adapter, report = load_adapter(path, parts)
    assert report.unmatched == ()
    state, *_, metadata = loader.lora_state_dict(str(path), return_lora_metadata=True)
    parts[denoiser].load_lora_adapter(state, prefix=denoiser, metadata=metadata)
    theirs = [p for p in parts if p != "text_encoder_3"]  # diffusers has no loader for T5 there
    if make is flux:
        theirs.remove("text_encoder_2")
    into_text_encoders({p: parts[p] for p in theirs}, state, None, metadata)
    mine = {s: f for s, f in adapter.factors.items() if s.partition(".")[0] in theirs}
    assert_same_change(replace(adapter, factors=mine), deltas(parts))


# --- FLUX.1


def assert_same_products(adapter: Adapter, state: dict[str, Tensor]) -> None:
    """Compare factors on random input, since the dense changes of wide models are large."""
    downs = {k.removesuffix(".lora_A.weight"): v for k, v in state.items() if ".lora_A." in k}
    assert set(adapter.factors) == set(downs)
    for site, down in downs.items():
        up = state[f"{site}.lora_B.weight"].double()
        x = torch.randn(down.shape[1], 3, generator=torch.Generator().manual_seed(1)).double()
        factors = adapter.factors[site]
        mine, theirs = factors.up.double() @ (factors.down.double() @ x), up @ (down.double() @ x)
        assert float((mine - theirs).abs().max()) <= 1e-6 * float(theirs.abs().max()), site


WIDE = firsts.flux(3072, 2, 2, 4096, 768)
BLOCKS = {n: s for n, s in WIDE.items() if "_blocks" in n}


def test_kohya_for_flux(tmp_path: Path) -> None:
    path = kohya(random_raws(BLOCKS), tmp_path / "a.safetensors")
    adapter, _ = load_adapter(path, {"transformer": models.wide_flux()})
    assert_same_products(adapter, FluxLoraLoaderMixin.lora_state_dict(str(path)))


def test_kohya_for_flux_outside_its_blocks(tmp_path: Path) -> None:
    """diffusers 0.42 leaves the component's name out there, so that its loader drops all of it, and
    the alpha of the final layer is lost."""
    outside = {n: s for n, s in WIDE.items() if "_blocks" not in n}
    raws = random_raws(outside)
    raws |= {n: replace(r, alpha=float(r.rank)) for n, r in raws.items() if "final" in n}
    path = kohya(raws, tmp_path / "a.safetensors")
    adapter, _ = load_adapter(path, {"transformer": models.wide_flux()})
    state = FluxLoraLoaderMixin.lora_state_dict(str(path))
    whole = {f"transformer.{name.removeprefix('transformer.')}": t for name, t in state.items()}
    assert_same_products(adapter, whole)


def test_sparse_fused_factors(tmp_path: Path) -> None:
    """sd-scripts trains parts on their own (split_qkv) and saves them as one block-diagonal pair,
    which diffusers takes apart; here it stays whole, with zeros, and means the same."""
    shapes = {"double_blocks.0.img_attn.qkv": (3 * 3072, 3072)}
    generator = torch.Generator().manual_seed(0)
    blocks = [torch.randn(3072, 2, generator=generator) for _ in range(3)]
    raw = Raw(torch.randn(6, 3072, generator=generator), torch.block_diag(*blocks), 3.0)
    path = kohya(dict.fromkeys(shapes, raw), tmp_path / "a.safetensors")
    adapter, _ = load_adapter(path, {"transformer": models.wide_flux()})
    state = FluxLoraLoaderMixin.lora_state_dict(str(path))
    assert {t.shape[0] for n, t in state.items() if "lora_A" in n} == {2}
    assert_same_products(adapter, state)


@pytest.mark.parametrize("start", ["", "diffusion_model."])
def test_xlabs_for_flux(start: str, tmp_path: Path) -> None:
    raws = random_raws(firsts.xlabs(3072, 2, 2))
    tensors = {}
    for name, raw in raws.items():
        tensors[f"{start}{name}.down.weight"] = raw.down
        tensors[f"{start}{name}.up.weight"] = raw.up
    path = write(tensors, tmp_path / "a.safetensors")
    adapter, report = load_adapter(path, {"transformer": models.wide_flux()})
    assert report.unmatched == () and len(report.matched) - report.fused == len(raws)
    assert_same_products(adapter, FluxLoraLoaderMixin.lora_state_dict(str(path)))


def test_bfl_for_flux_from_peft(tmp_path: Path) -> None:
    """The names of trainers that put PEFT into BFL's own model; diffusers wants all blocks."""
    shapes = {n: s for n, s in firsts.flux(3072, 19, 38, 4096, 768).items() if "_blocks" in n}
    raws = {
        name: replace(raw, down=raw.down[:1], up=raw.up[:, :1], alpha=1.0)
        for name, raw in random_raws(shapes).items()
    }
    tensors = {}
    for name, raw in raws.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = raw.down
        tensors[f"base_model.model.{name}.lora_B.weight"] = raw.up
    final = random_raws({n: s for n, s in WIDE.items() if n == "final_layer.linear"})
    for name, raw in final.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = raw.down
        tensors[f"base_model.model.{name}.lora_B.weight"] = raw.up
    path = write(tensors, tmp_path / "a.safetensors")
    adapter, _ = load_adapter(path, {"transformer": models.wide_flux(19, 38)})
    assert_same_products(adapter, FluxLoraLoaderMixin.lora_state_dict(str(path)))


def test_flattened_diffusers_names_for_flux(tmp_path: Path) -> None:
    """OneTrainer's and older ai-toolkit's; diffusers misplaces all of a block but its attention."""
    parts = flux()
    parts.pop("text_encoder_2")
    truth = truth_of(parts)
    raws = {n: r for n, r in truth["transformer"].items() if ".attn." in n or "." not in n}
    raws = {n: r for n, r in raws.items() if n != "proj_out"}
    tensors = load_file(kohya(raws, tmp_path / "a.safetensors", "lora_transformer_"))
    text = kohya(clip_raws(16), tmp_path / "b.safetensors", "lora_te1_text_model_")
    path = write(tensors | load_file(text), tmp_path / "c.safetensors")
    adapter, report = load_adapter(path, parts)
    assert report.unmatched == ()
    state = FluxLoraLoaderMixin.lora_state_dict(str(path))
    level = "" if not hasattr(parts["text_encoder"], "text_model") else "text_model."
    state = {n.replace("text_model.", level): t for n, t in state.items()}
    assert_same_products(adapter, state)

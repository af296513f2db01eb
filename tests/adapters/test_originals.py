"""Files under the names of first releases: diffusers' own conversion of checkpoints is the oracle.

diffusers' converters rename modules and cut, or swap, rows. So they are given "weights" whose first
column says which module of the file they are, and whose others are its second factor; what they
make of these must be the factors of the adapter, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils as singles
from safetensors.torch import load_file
from torch import Tensor, nn

from compose.adapters import load_adapter, read_adapter, save_adapter
from compose.errors import AdapterFormatError, AdapterMismatchError
from tests.adapters import firsts, models
from tests.adapters.layouts import Raw, write
from tests.adapters.spelled import SPELLINGS, Raws, dotted, kohya, random_raws, spelled

Weights = dict[str, Tensor]


def weights(raws: Raws) -> Weights:
    """ "Weights" [d_out, 1 + 3] for a converter: the module's number, then the second factor."""
    made = {}
    for number, (name, raw) in enumerate(raws.items()):
        up = raw.folded.flatten(1)
        numbered = torch.cat([torch.full((up.shape[0], 1), float(number)), up], dim=1)
        made[name] = nn.functional.pad(numbered, (0, 4 - numbered.shape[1]))
    return made


def with_biases(raws: Raws, start: str = "") -> Weights:
    made = {f"{start}{name}.weight": weight for name, weight in weights(raws).items()}
    biases = {name.removesuffix("weight") + "bias": w[:, 0] for name, w in made.items()}
    return made | biases


def by_unet_converter(model: nn.Module, raws: Raws) -> Weights:
    checkpoint = with_biases(raws, "model.diffusion_model.")
    return singles.convert_ldm_unet_checkpoint(checkpoint, dict(model.config))


def by_sd3_converter(model: nn.Module, raws: Raws) -> Weights:
    checkpoint = with_biases(raws) | {"pos_embed": torch.zeros(1)}
    return singles.convert_sd3_transformer_checkpoint_to_diffusers(checkpoint)


def by_flux_converter(model: nn.Module, raws: Raws) -> Weights:
    checkpoint = with_biases(raws)
    for name in [n for n in checkpoint if n.endswith(("_attn.qkv.weight", "linear1.weight"))]:
        norm = name.removesuffix("qkv.weight").removesuffix("linear1.weight") + "norm"
        checkpoint |= {f"{norm}.{n}_norm.scale": torch.zeros(1) for n in ("query", "key")}
    return singles.convert_flux_transformer_checkpoint_to_diffusers(checkpoint)


def by_clip_converter(model: nn.Module, raws: Raws) -> Weights:
    checkpoint = {
        f"{name}{'_' if name.endswith('in_proj') else '.'}weight": weight
        for name, weight in weights(raws).items()
    }
    found = singles.convert_open_clip_checkpoint(model, checkpoint, prefix="")
    return {name.removeprefix("text_model."): weight for name, weight in found.items()}


CASES: Mapping[str, tuple[Callable[[], nn.Module], firsts.Shapes, Callable[..., Weights]]] = {
    "SDXL": (
        models.sdxl_unet,
        firsts.sgm_unet(8, (1, 2, 4), 2, (0, 2, 3), 3, models.TEXT, models.ADDED),
        by_unet_converter,
    ),
    "SDXL, full size": (
        models.full_sdxl_unet,
        firsts.sgm_unet(320, (1, 2, 4), 2, (0, 2, 10), 10, 2048, 2816),
        by_unet_converter,
    ),
    "SD 1.x": (
        models.sd1_unet,
        firsts.sgm_unet(8, (1, 2, 3), 1, (1, 1, 0), 1, models.TEXT, linear=False),
        by_unet_converter,
    ),
    "SD 2.x, three layers": (
        lambda: models.sd1_unet(layers=3, linear=True),
        firsts.sgm_unet(8, (1, 2, 3), 3, (1, 1, 0), 1, models.TEXT),
        by_unet_converter,
    ),
    "SD3.5": (models.sd3, firsts.mmdit(16, 3, 1, models.TEXT, models.POOLED), by_sd3_converter),
    "SD3": (
        lambda: models.sd3(2, 0),
        firsts.mmdit(16, 2, 0, models.TEXT, models.POOLED),
        by_sd3_converter,
    ),
    "FLUX.1": (models.wide_flux, firsts.flux(3072, 2, 2, 4096, 768), by_flux_converter),
}
TEXT_CASE = (
    lambda: models.clip(projected=True),
    firsts.open_clip(16, 32, 2),
    by_clip_converter,
)


def assert_is_converted(
    adapter: Any, converted: Weights, raws: Raws, component: str, paths: Iterable[str]
) -> None:
    """The adapter has what the converter made of the file, and nothing else."""
    expected = {
        name.removesuffix(".weight"): weight
        for name, weight in converted.items()
        if name.removesuffix(".weight") in paths
    }
    assert set(adapter.factors) == {f"{component}.{path}" for path in expected}
    sources = list(raws.values())
    for path, weight in expected.items():
        factors = adapter.factors[f"{component}.{path}"]
        (number,) = weight[:, 0].unique()
        raw = sources[int(number)]
        assert torch.equal(factors.down.flatten(1), raw.down.flatten(1)), path
        assert torch.equal(factors.up, weight[:, 1 : 1 + raw.rank]), path


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_of_first_releases_mean_what_diffusers_says(
    case: str, spelling: str, tmp_path: Path
) -> None:
    make, shapes, convert = CASES[case]
    model, raws = make(), random_raws(shapes)
    component = "unet" if "SD3" not in case and "FLUX" not in case else "transformer"
    path = SPELLINGS[spelling](raws, tmp_path / "a.safetensors")
    adapter, report = load_adapter(path, {component: model})
    paths = [p for p, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert_is_converted(adapter, convert(model, raws), raws, component, paths)
    assert report.unmatched == report.ignored == ()
    assert len(report.matched) - report.fused == len(raws), "modules of the file are counted once"
    assert len(report.matched) == len(paths), "every module of the model has an original name"


@pytest.mark.parametrize("spelling", ["kohya", "dotted", "model"])
def test_the_second_text_encoder_may_have_the_names_of_openclip(
    spelling: str, tmp_path: Path
) -> None:
    make, shapes, convert = TEXT_CASE
    model, raws = make(), random_raws(shapes)
    path = tmp_path / "a.safetensors"
    if spelling == "kohya":
        kohya(raws, path, "lora_te2_")
    else:
        dotted(raws, path, "text_encoder_2." + ("model." if spelling == "model" else ""))
    parts = {"text_encoder": models.clip(projected=True), "text_encoder_2": model}
    adapter, report = load_adapter(path, parts)
    level = "text_model." if hasattr(model, "text_model") else ""
    converted = {level + name: w for name, w in convert(model, raws).items()}
    paths = dict(model.named_modules())
    assert_is_converted(adapter, converted, raws, "text_encoder_2", paths)
    assert len(report.matched) == 2 * 6 and report.fused == 2 * 2


def test_what_kohyas_trainers_change_is_found_whole(tmp_path: Path) -> None:
    """The numbers of modules that sd-scripts prints: 722 of SDXL's UNet, 304 of FLUX.1."""
    everything = firsts.sgm_unet(320, (1, 2, 4), 2, (0, 2, 10), 10, 2048, 2816)
    shapes = {n: s for n, s in everything.items() if "transformer_blocks" in n or ".proj_" in n}
    raws = {n: Raw(torch.ones(1, s[1]), torch.ones(s[0], 1), 1.0) for n, s in shapes.items()}
    path = kohya(raws, tmp_path / "a.safetensors")
    _, report = load_adapter(path, {"unet": models.full_sdxl_unet()})
    assert len(report.matched) == 722 and report.unmatched == ()

    everything = firsts.flux(3072, 19, 38, 4096, 768)
    shapes = {n: s for n, s in everything.items() if "_blocks" in n}
    raws = {n: Raw(torch.ones(1, s[1]), torch.ones(s[0], 1), 1.0) for n, s in shapes.items()}
    path = kohya(raws, tmp_path / "b.safetensors")
    _, report = load_adapter(path, {"transformer": models.wide_flux(19, 38)})
    assert len(report.matched) - report.fused == 304 and report.unmatched == ()
    assert report.summary() == "304 of 304 modules matched, which are 494 in this model"


def test_parts_of_fused_modules_may_come_alone(tmp_path: Path) -> None:
    """OneTrainer's names: the fused layer's, with the number of the part."""
    width = 16
    names = {
        "double_blocks.1.img_attn.qkv.0": "transformer_blocks.1.attn.to_q",
        "double_blocks.1.txt_attn.qkv.2": "transformer_blocks.1.attn.add_v_proj",
        "single_blocks.0.linear1.3": "single_transformer_blocks.0.proj_mlp",
        "img_in.proj": "x_embedder",
    }
    model = models.flux()
    shapes = {n: tuple(model.get_submodule(p).weight.shape) for n, p in names.items()}
    assert shapes["single_blocks.0.linear1.3"] == (4 * width, width)
    raws = random_raws(shapes)
    path = spelled(raws, tmp_path / "a.safetensors", "transformer.{}".format, "lora_down lora_up")
    adapter, report = load_adapter(path, {"transformer": model})
    assert set(report.matched) == {f"transformer.{p}" for p in names.values()}
    for name, raw in raws.items():
        factors = adapter.factors[f"transformer.{names[name]}"]
        assert torch.equal(factors.down, raw.down) and torch.equal(factors.up, raw.folded)


def test_split_factors_can_be_saved_and_are_then_plain(tmp_path: Path) -> None:
    raws = random_raws(firsts.flux(16, 2, 2, models.TEXT, models.POOLED))
    parts = {"transformer": models.flux()}
    first, _ = load_adapter(kohya(raws, tmp_path / "a.safetensors"), parts)
    save_adapter(first, tmp_path / "b.safetensors")
    second, report = load_adapter(tmp_path / "b.safetensors", parts)
    assert list(second.factors) == list(first.factors) and report.fused == 0
    for site, factors in first.factors.items():
        assert torch.equal(factors.down, second.factors[site].down)
        assert torch.equal(factors.up, second.factors[site].up)


def test_a_module_may_not_come_fused_and_alone(tmp_path: Path) -> None:
    raws = random_raws({"double_blocks.0.img_attn.qkv": (48, 16)})
    path = dotted(raws, tmp_path / "a.safetensors")
    alone = random_raws({"transformer_blocks.0.attn.to_k": (16, 16)})
    both = dotted(alone, tmp_path / "b.safetensors", "transformer.")
    merged = {**load_file(path), **load_file(both)}
    path = write(merged, tmp_path / "c.safetensors")
    assert read_adapter(path).layout == "diffusers-bfl"
    with pytest.raises(AdapterFormatError, match=r"are both transformer\.transformer_blocks\.0"):
        load_adapter(path, {"transformer": models.flux()})


@pytest.mark.parametrize("shape", [(49, 16), (48, 17), (32, 16)])
def test_fused_factors_must_have_the_rows_of_all_parts(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    raws = random_raws({"double_blocks.0.img_attn.qkv": shape})
    path = kohya(raws, tmp_path / "a.safetensors")
    with pytest.raises(AdapterMismatchError) as caught:
        load_adapter(path, {"transformer": models.flux()})
    message = str(caught.value)
    assert f"of shape {list(shape)}; expected [48, 16]" in message
    assert "attn.to_q and transformer.transformer_blocks.0.attn.to_k and" in message

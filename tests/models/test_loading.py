"""Models from folders and from single files: the same pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from compose.device import pick_dtype
from compose.errors import ComposeError, ModelError
from compose.models import detect, source
from compose.models.family import Family
from compose.models.loading import load
from compose.models.options import LoadOptions
from compose.models.sd15 import StableDiffusion15
from compose.models.source import find, packages
from tests.ldm import original_file, original_state
from tests.models.sources import CPU, GPU, picture
from tests.tiny import tiny_folder, tiny_pipeline


def test_a_file_and_a_folder_of_the_same_weights_draw_the_same(
    file: Path, folder: Path, settings: Path, paths: list[Path]
) -> None:
    expected = picture(folder, paths)
    assert picture(file, paths, config=str(settings)) == expected
    assert picture(file, paths, config=str(folder)) == expected  # its weights are not looked at


def test_settings_are_found_in_the_cache_of_the_hub(
    file: Path, folder: Path, settings: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def cached(repository: str, name: str) -> str:
        asked.append(repository)
        return str(settings / name)

    monkeypatch.setattr(source, "try_to_load_from_cache", cached)
    assert picture(file, paths) == picture(folder, paths)
    assert set(asked) == {"stable-diffusion-v1-5/stable-diffusion-v1-5"}


def test_parts_that_a_file_lacks_come_from_the_folder(
    folder: Path, settings: Path, paths: list[Path], tmp_path: Path
) -> None:
    state = original_state(tiny_pipeline())
    kept = {n: t.contiguous() for n, t in state.items() if not n.startswith("first_stage_model")}
    path = tmp_path / "no_vae.safetensors"
    save_file(kept, path)
    assert picture(path, paths, config=str(folder)) == picture(folder, paths)
    with pytest.raises(ModelError, match="lacks vae"):
        find(str(path), LoadOptions(config=str(settings)))


def test_v_prediction_is_followed(settings: Path, tmp_path: Path) -> None:
    state = {n: t.contiguous() for n, t in original_state(tiny_pipeline()).items()}
    path = tmp_path / "v.safetensors"
    save_file({**state, "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, path)
    own = LoadOptions(config=str(settings))
    scheduler = load(str(path), device=CPU, options=own).pipe.scheduler
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.rescale_betas_zero_snr
    assert scheduler.config.beta_schedule == "scaled_linear"


def test_too_little_memory_is_no_fault_of_the_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*args: object, **more: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", greedy)
    with pytest.raises(RuntimeError, match="allocate"):
        load(str(folder), device=CPU)


def test_a_denoiser_of_its_own(folder: Path, paths: list[Path], tmp_path: Path) -> None:
    other = tiny_pipeline(seed=5)
    whole = tiny_folder(tmp_path / "expected")
    save_file(other.unet.state_dict(), whole / "unet" / "diffusion_pytorch_model.safetensors")
    expected = picture(whole, paths)
    assert expected != picture(folder, paths)
    in_diffusers_names = tmp_path / "unet.safetensors"
    save_file(other.unet.state_dict(), in_diffusers_names)
    assert picture(folder, paths, denoiser=str(in_diffusers_names)) == expected
    in_original_names = original_file(other, tmp_path / "whole.safetensors")
    assert picture(folder, paths, denoiser=str(in_original_names)) == expected


def test_the_folders_own_denoiser_need_not_be_there(
    folder: Path, paths: list[Path], tmp_path: Path
) -> None:
    rest = Path(shutil.copytree(folder, tmp_path / "rest"))
    weights = rest / "unet" / "diffusion_pytorch_model.safetensors"
    alone = weights.rename(tmp_path / "unet.safetensors")
    assert picture(rest, paths, denoiser=str(alone)) == picture(folder, paths)


def test_a_file_and_a_denoiser_of_its_own(
    file: Path, folder: Path, settings: Path, paths: list[Path], tmp_path: Path
) -> None:
    other = original_file(tiny_pipeline(seed=5), tmp_path / "other.safetensors")
    both = picture(file, paths, config=str(settings), denoiser=str(other))
    assert both == picture(folder, paths, denoiser=str(other))


def test_the_table_decides_for_folders_files_and_pipelines_alike(
    folder: Path, file: Path, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(StableDiffusion15):
        name = "other"

    monkeypatch.setattr(detect, "FAMILIES", {"StableDiffusionPipeline": Other})
    families: list[Family] = [
        load(str(folder), device=CPU),
        load(str(file), device=CPU, options=LoadOptions(config=str(settings))),
        detect.family_of(tiny_pipeline()),
    ]
    assert [type(family) for family in families] == [Other] * 3


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_the_family_decides_the_dtype_on_a_gpu(half: torch.dtype) -> None:
    assert pick_dtype("auto", GPU, half) == half and pick_dtype("auto", CPU, half) == torch.float32
    assert pick_dtype("fp32", GPU, half) == torch.float32


@pytest.mark.parametrize("family", detect.FAMILIES.values())
def test_transformers_work_in_bf16_and_unets_in_fp16(family: type[Family]) -> None:
    expected = torch.bfloat16 if family.denoiser_name == "transformer" else torch.float16
    assert family.half == expected


def test_dtypes(folder: Path) -> None:
    assert load(str(folder), device=CPU).dtype == torch.float32
    half = load(str(folder), device=CPU, dtype="bf16")
    assert half.dtype == torch.bfloat16
    assert {p.dtype for p in half.pipe.text_encoder.parameters()} == {torch.bfloat16}
    with pytest.raises(ComposeError, match="fp8"):
        load(str(folder), device=CPU, dtype="fp8")


def test_tiles_are_decoded_only_when_asked_for(folder: Path, paths: list[Path]) -> None:
    assert picture(folder, paths, vae_tiling=True) != picture(folder, paths)
    assert load(str(folder), device=CPU, options=LoadOptions(vae_tiling=True)).pipe.vae.use_tiling


def test_deciding_options_leave_out_what_changes_no_pixel() -> None:
    assert LoadOptions(offload="model").deciding() == {}
    options = LoadOptions(vae_tiling=True, quantize="bnb4", offload="model", denoiser="x.gguf")
    assert options.deciding() == {"denoiser": "x.gguf", "quantize": "bnb4", "vae_tiling": True}


def test_files_that_decide(file: Path, folder: Path, settings: Path, tmp_path: Path) -> None:
    single = find(str(file), LoadOptions(config=str(folder)))
    bare = find(str(file), LoadOptions(config=str(settings)))
    names = [name for name, _ in single.files()]
    assert names == [name for name, _ in bare.files()]  # the folder's weights are not used
    assert names[0] == "checkpoint" and "tokenizer/tokenizer.json" in names
    whole = [name for name, _ in find(str(folder)).files()]
    assert "unet/diffusion_pytorch_model.safetensors" in whole and "checkpoint" not in whole
    replaced = find(str(folder), LoadOptions(denoiser=str(file)))
    names = [name for name, _ in replaced.files()]
    assert names[0] == "denoiser" and "vae/diffusion_pytorch_model.safetensors" in names
    assert "unet/diffusion_pytorch_model.safetensors" not in names


def test_packages_that_compute(folder: Path) -> None:
    found = find(str(folder))
    assert packages(found, LoadOptions()) == ()
    assert packages(found, LoadOptions(quantize="bnb8")) == ("bitsandbytes",)
    assert packages(found, LoadOptions(attention_backend="_native_math")) == ()
    assert packages(found, LoadOptions(attention_backend="xformers")) == ("xformers",)

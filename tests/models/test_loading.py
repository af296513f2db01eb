"""Models from folders and from single files: the same pictures, or one clear line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from compose.adapters.library import AdapterLibrary
from compose.composer import Composer
from compose.device import pick_dtype
from compose.errors import ComposeError, MissingExtraError, ModelError, RequestError
from compose.fusion.merge import Merge
from compose.models import detect, quantization, source
from compose.models.family import Family
from compose.models.loading import load
from compose.models.options import LoadOptions
from compose.models.sd15 import StableDiffusion15
from compose.models.source import find, packages
from tests import engine
from tests.ldm import original_file, original_state
from tests.models import headers
from tests.tiny import tiny_folder, tiny_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("folder") / "tiny")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as in the folder."""
    return original_file(tiny_pipeline(), tmp_path_factory.mktemp("file") / "tiny.safetensors")


@pytest.fixture(scope="module")
def settings(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder without its weights."""
    bare = tmp_path_factory.mktemp("settings") / "tiny"
    return Path(shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*.safetensors")))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return engine.files(tmp_path_factory.mktemp("adapters"))


def picture(model: Path, paths: list[Path], **options: object) -> bytes:
    loaded = Composer.load(
        str(model), device="cpu", options=LoadOptions(**options), library=AdapterLibrary(())
    )
    with loaded as composer:
        asked = engine.request(paths, [0.8, -0.5, 0.6], Merge(), steps=2)
        return composer.generate(asked).images[0].image.tobytes()


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


def test_without_settings_the_way_to_them_is_told(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "try_to_load_from_cache", lambda *where: None)
    with pytest.raises(ModelError, match="--model-config") as caught:
        find(str(file))
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5" in str(caught.value)


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


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("model.diffusion_model.middle_block.1.proj_in.weight", "call for are missing"),
        ("first_stage_model.decoder.mid.block_1.conv1.bias", "call for are missing"),
        (
            "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.bias",
            r"lacks 1 tensors of text_encoder.*layers\.1\.mlp\.fc1\.bias",
        ),
    ],
)
def test_a_file_that_lacks_tensors_is_refused(
    file: Path, settings: Path, tmp_path: Path, gone: str, words: str
) -> None:
    state = load_file(file)
    del state[gone]
    path = tmp_path / "holes.safetensors"
    save_file(state, path)
    with pytest.raises(ModelError, match=words):
        load(str(path), device=CPU, options=LoadOptions(config=str(settings)))


def test_settings_of_another_size_are_refused_in_one_line(
    file: Path, settings: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(settings, tmp_path / "other"))
    config = other / "unet" / "config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "block_out_channels": [16, 16, 24]}))
    with pytest.raises(ModelError, match="could not be loaded") as caught:
        load(str(file), device=CPU, options=LoadOptions(config=str(other)))
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_settings_of_another_family_are_refused(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = headers.header_file(tmp_path / "xl.safetensors", headers.WHOLE["sdxl"])
    two = {**detect.FAMILIES, "StableDiffusionXLPipeline": StableDiffusion15}
    monkeypatch.setattr(detect, "FAMILIES", two)
    with pytest.raises(ModelError, match="for a StableDiffusionPipeline; expected both of one"):
        find(str(path), LoadOptions(config=str(settings)))


@pytest.mark.parametrize("base", headers.WHOLE)
def test_a_file_of_a_family_that_is_not_there_is_refused(
    tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "FAMILIES", {"SomePipeline": StableDiffusion15})
    path = headers.header_file(tmp_path / "x.safetensors", headers.WHOLE[base])
    with pytest.raises(ModelError, match=r"x\.safetensors .*not supported.*SomePipeline"):
        find(str(path))


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


# --- the denoiser from another file


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


# --- what is refused


def test_a_denoiser_given_as_model(tmp_path: Path) -> None:
    path = headers.header_file(tmp_path / "unet.safetensors", headers.unet(768))
    with pytest.raises(ModelError, match=r"alone; expected a whole model: .*--denoiser"):
        find(str(path))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.ckpt", "a pickle"),
        ("x.bin", "a pickle"),
        ("x.gguf", "GGUF file.*--denoiser"),
        ("x.safetensors", "first bytes"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"something else altogether")
    with pytest.raises(ModelError, match=words):
        find(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.safetensors", "no denoiser at"),
        ("x.gguf", "no GGUF file"),
        ("x.ckpt", "holds no denoiser"),
    ],
)
def test_denoisers_of_another_kind(folder: Path, tmp_path: Path, name: str, words: str) -> None:
    if name != "nowhere.safetensors":
        (tmp_path / name).write_bytes(b"something else altogether")
    with pytest.raises(ModelError, match=words):
        find(str(folder), LoadOptions(denoiser=str(tmp_path / name)))


def test_a_denoiser_of_another_family(folder: Path, tmp_path: Path) -> None:
    path = headers.header_file(tmp_path / "x.safetensors", headers.flux(guided=True))
    with pytest.raises(ModelError, match="denoiser of a FluxPipeline"):
        find(str(folder), LoadOptions(denoiser=str(path)))


def test_a_denoiser_of_another_size(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(tiny_pipeline(linear_projection=True).unet.state_dict(), path)
    with pytest.raises(ModelError, match="could not be loaded"):
        load(str(folder), device=CPU, options=LoadOptions(denoiser=str(path)))


def test_a_gguf_file_needs_its_package(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF and so on")
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"lora-compose\[gguf\]"):
        find(str(folder), LoadOptions(denoiser=str(tmp_path / "x.gguf")))


def test_settings_for_a_folder_make_no_sense(folder: Path, settings: Path) -> None:
    with pytest.raises(ModelError, match="drop --model-config"):
        find(str(folder), LoadOptions(config=str(settings)))


@pytest.mark.parametrize("field", ["quantize", "offload"])
def test_unknown_options(field: str) -> None:
    with pytest.raises(RequestError, match="'some'"):
        LoadOptions(**{field: "some"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"offload": "model"}, "on a cpu.*--offload"),
        ({"offload": "sequential"}, "on a cpu.*--offload"),
        ({"quantize": "bnb4"}, "on a cpu.*torchao-int8"),
        ({"quantize": "bnb8"}, "on a cpu"),
    ],
)
def test_options_that_need_a_gpu(folder: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        load(str(folder), device=CPU, options=LoadOptions(**options))


def test_quantising_needs_its_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"lora-compose\[torchao\]"):
        load(str(folder), device=CPU, options=LoadOptions(quantize="torchao-int8"))


GPU = torch.device("cuda")  # never reached: the options are refused before anything is loaded


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantize": "torchao-int8", "offload": "sequential"}, "layer by layer"),
        ({"quantize": "bnb4", "stored": True}, "unet is stored quantised already"),
        ({"offload": "sequential", "stored": True}, "layer by layer"),
        ({"quantize": "bnb4", "single": True}, "one file"),
    ],
)
def test_options_that_exclude_each_other(
    folder: Path,
    file: Path,
    settings: Path,
    tmp_path: Path,
    options: dict[str, object],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: object())
    given = dict(options)
    model = folder
    if given.pop("single", False):
        model, given["config"] = file, str(settings)
    if given.pop("stored", False):
        model = Path(shutil.copytree(folder, tmp_path / "stored"))
        config = model / "unet" / "config.json"
        stored = {"quantization_config": {"quant_method": "bitsandbytes"}}
        config.write_text(json.dumps({**json.loads(config.read_text()), **stored}))
    with pytest.raises(RequestError, match=words):
        load(str(model), device=GPU, options=LoadOptions(**given))


# --- what comes of it


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


# --- quantised bases, where their packages are installed


def test_a_base_quantised_by_torchao(folder: Path, paths: list[Path]) -> None:
    pytest.importorskip("torchao")
    options = LoadOptions(quantize="torchao-int8")
    loaded = Composer.load(str(folder), device="cpu", options=options, library=AdapterLibrary(()))
    with loaded as composer:
        unet = composer.family.pipe.unet
        weight = unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight
        assert "torchao" in type(weight).__module__
        stored = {n: p.clone() for n, p in unet.named_parameters() if "torchao" not in str(type(p))}
        zero = engine.request(paths, [0.0] * 3, Merge(), steps=2)
        expected = engine.stock(composer.family.pipe, zero, "pil").tobytes()
        assert composer.generate(zero).images[0].image.tobytes() == expected
        some = engine.request(paths, [0.8, -0.5, 0.6], Merge(), steps=2)
        assert composer.generate(some).images[0].image.tobytes() != expected
        composer.close()
        now = dict(unet.named_parameters())
        assert all(torch.equal(now[name], value) for name, value in stored.items())
        assert now["mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"] is weight


def test_a_denoiser_in_a_gguf_file(folder: Path, paths: list[Path], tmp_path: Path) -> None:
    """The oracle is a folder of the weights that the file decodes to."""
    gguf = pytest.importorskip("gguf")
    from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

    kind, packed = gguf.GGMLQuantizationType.Q8_0, 0
    path, decoded = tmp_path / "unet.gguf", {}
    writer = gguf.GGUFWriter(str(path), "unet")
    for name, tensor in tiny_pipeline().unet.state_dict().items():
        decoded[name] = tensor
        if tensor.ndim != 2 or tensor.shape[1] % 32 or "time_" in name:
            writer.add_tensor(name, tensor.numpy())
            continue
        codes = gguf.quants.quantize(tensor.numpy(), kind)
        writer.add_tensor(name, codes, raw_dtype=kind)
        parameter = GGUFParameter(torch.from_numpy(codes), quant_type=kind)
        decoded[name] = dequantize_gguf_tensor(parameter).to(torch.float32).contiguous()
        packed += 1
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert packed > 10
    plain = Path(shutil.copytree(folder, tmp_path / "decoded"))
    weights = plain / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(decoded, weights, metadata={"format": "pt"})
    got = picture(folder, paths, denoiser=str(path))
    assert got == picture(plain, paths) and got != picture(folder, paths)
    found = find(str(folder), LoadOptions(denoiser=str(path)))
    assert packages(found, LoadOptions()) == ("gguf",)
    with pytest.raises(RequestError, match="unet is stored quantised already"):
        both = LoadOptions(denoiser=str(path), quantize="torchao-int8")
        load(str(folder), device=CPU, options=both)


def test_a_gguf_file_that_is_cut_short(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(8))
    with pytest.raises(ModelError, match="could not be loaded") as caught:
        load(str(folder), device=CPU, options=LoadOptions(denoiser=str(tmp_path / "x.gguf")))
    assert str(tmp_path / "x.gguf") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "package"), [("torchao-int8", "torchao"), ("bnb4", "bitsandbytes")]
)
def test_each_library_gets_settings_of_its_own(name: str, package: str) -> None:
    pytest.importorskip(package)
    parts = {"transformer": "diffusers", "text_encoder_3": "transformers"}
    found = quantization.configs(name, parts, torch.bfloat16)
    homes = {part: type(config).__module__.split(".")[0] for part, config in found.items()}
    assert homes == parts
    assert quantization.configs("none", parts, torch.bfloat16) == {}

"""Quantised bases, where their packages are installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from compose.adapters.library import AdapterLibrary
from compose.composer import Composer
from compose.errors import ModelError, RequestError
from compose.fusion.merge import Merge
from compose.models import quantization
from compose.models.loading import load
from compose.models.options import LoadOptions
from compose.models.source import find, packages
from tests import engine
from tests.models.sources import CPU, picture
from tests.tiny import tiny_pipeline


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

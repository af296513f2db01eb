"""Names that diffusers and the libraries beneath it do not promise to keep, and that families,
loading and `compose.attach` use; one test each, so that an upgrade says which is gone.

Nothing of the package is imported here: it may fail to import just because one of them is gone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from pydoc import locate
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from tests.tiny import tiny_pipeline
from tests.tiny_flux import tiny_flux
from tests.tiny_sd3 import tiny_sd3
from tests.tiny_sdxl import tiny_sdxl

PIPELINES: Mapping[str, Callable[[], DiffusionPipeline]] = {
    "sd15": tiny_pipeline,
    "sdxl": tiny_sdxl,
    "sd3": tiny_sd3,
    "flux": tiny_flux,
}
UNETS, JOINT = ("sd15", "sdxl"), ("sd3", "flux")
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
SOLVERS = ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", *FLOW)

ATTRIBUTES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        tuple(PIPELINES),
        (
            *("_execution_device", "components", "maybe_free_model_hooks"),
            *("enable_model_cpu_offload", "enable_sequential_cpu_offload"),
            *("encode_prompt", "image_processor.postprocess", "set_progress_bar_config"),
            *("scheduler.from_config", "scheduler.timesteps"),
            *("scheduler.config.num_train_timesteps", "text_encoder.config.model_type"),
            *("vae.config.latent_channels", "vae.config.scaling_factor", "vae.enable_tiling"),
            "vae_scale_factor",
        ),
    ),
    (
        UNETS,
        (
            *("scheduler.init_noise_sigma", "scheduler.scale_model_input"),
            *("unet.config.block_out_channels", "unet.config.in_channels"),
            *("unet.config.sample_size", "unet.config.time_cond_proj_dim"),
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.is_cross_attention",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor",
            "unet.set_attention_backend",
        ),
    ),
    (
        ("sdxl",),
        (
            *("_get_add_time_ids", "config.force_zeros_for_empty_prompt"),
            *("text_encoder_2.config.projection_dim", "unet.add_embedding.linear_1.in_features"),
            *("unet.config.addition_embed_type", "unet.config.addition_time_embed_dim"),
            *("vae.config.force_upcast", "vae.config.latents_mean", "vae.config.latents_std"),
        ),
    ),
    (
        JOINT,
        (
            *("default_sample_size", "tokenizer_max_length", "transformer.config.in_channels"),
            *("scheduler.config.base_image_seq_len", "scheduler.config.base_shift"),
            *("scheduler.config.max_image_seq_len", "scheduler.config.max_shift"),
            *("scheduler.config.use_dynamic_shifting", "vae.config.shift_factor"),
            *("scheduler.sigmas", "transformer.set_attention_backend"),
            *(
                f"transformer.transformer_blocks.0.attn.{name}"
                for name in ("added_kv_proj_dim", "processor")
            ),
        ),
    ),
    (
        ("sd3",),
        (
            *("transformer.config.joint_attention_dim", "transformer.config.patch_size"),
            *("transformer.config.pos_embed_max_size", "text_encoder_3"),
        ),
    ),
    (
        ("flux",),
        (
            "transformer.config.guidance_embeds",
            "transformer.transformer_blocks.0.attn.processor._attention_backend",
        ),
    ),
)
"""Family to what its pipeline has, by dotted path."""

# In this order where a list is given, by name where a set is.
_UNET_ROWS = {
    *("timestep_cond", "class_labels", "attention_mask", "encoder_attention_mask"),
    *("down_block_additional_residuals", "mid_block_additional_residual"),
    *("down_intrablock_additional_residuals", "cross_attention_kwargs"),
}
_UNET = _UNET_ROWS | {"encoder_hidden_states", "added_cond_kwargs", "return_dict"}
ARGUMENTS: tuple[tuple[str, str, list[str] | set[str]], ...] = (
    *((kind, "unet.forward", ["sample", "timestep"]) for kind in UNETS),
    *((kind, "unet.forward", _UNET) for kind in UNETS),
    *((kind, "encode_prompt", {"prompt_embeds", "negative_prompt_embeds"}) for kind in UNETS),
    ("sdxl", "encode_prompt", {"pooled_prompt_embeds", "negative_pooled_prompt_embeds"}),
    (
        "sdxl",
        "_get_add_time_ids",
        [
            *("original_size", "crops_coords_top_left", "target_size", "dtype"),
            "text_encoder_projection_dim",
        ],
    ),
    ("sd15", "__init__", {"safety_checker", "feature_extractor", "requires_safety_checker"}),
    ("flux", "encode_prompt", ["prompt", "prompt_2", "device"]),
    ("flux", "encode_prompt", {"max_sequence_length"}),
    ("sd3", "encode_prompt", ["prompt", "prompt_2", "prompt_3", "device"]),
    ("sd3", "encode_prompt", {"do_classifier_free_guidance", "clip_skip", "max_sequence_length"}),
    (
        "flux",
        "transformer.forward",
        {
            *("hidden_states", "timestep", "guidance", "encoder_hidden_states"),
            *("pooled_projections", "txt_ids", "img_ids", "return_dict"),
        },
    ),
    (
        "sd3",
        "transformer.forward",
        {
            *("hidden_states", "timestep", "encoder_hidden_states"),
            *("pooled_projections", "return_dict"),
        },
    ),
    *((kind, "scheduler.set_timesteps", {"device", "sigmas", "mu"}) for kind in JOINT),
    *((kind, "scheduler.set_timesteps", {"device"}) for kind in UNETS),
    *((kind, "vae.decode", {"return_dict"}) for kind in PIPELINES),
    *((kind, "image_processor.postprocess", {"output_type"}) for kind in PIPELINES),
)
"""Family, a method of its pipeline by dotted path, and the arguments that it is given."""

FUNCTIONS: tuple[tuple[str, list[str] | set[str]], ...] = (
    (
        "diffusers.pipelines.flux.pipeline_flux.calculate_shift",
        ["image_seq_len", "base_seq_len", "max_seq_len", "base_shift", "max_shift"],
    ),
    ("diffusers.utils.torch_utils.randn_tensor", ["shape", "generator", "device", "dtype"]),
    ("diffusers.utils.torch_utils.is_compiled_module", ["module"]),
    ("diffusers.models.attention.AttentionModuleMixin", []),
    ("diffusers.models.attention_processor.Attention", []),
    ("diffusers.models.attention_dispatch.attention_backend", ["backend"]),
    ("diffusers.models.attention_dispatch.dispatch_attention_fn", ["query", "key", "value"]),
    (
        "diffusers.models.attention_dispatch.dispatch_attention_fn",
        {"attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa", "backend"},
    ),
    ("diffusers.DiffusionPipeline.enable_model_cpu_offload", {"device"}),
    ("diffusers.DiffusionPipeline.enable_sequential_cpu_offload", {"device"}),
    ("diffusers.PipelineQuantizationConfig", {"quant_mapping"}),
    ("diffusers.GGUFQuantizationConfig", {"compute_dtype"}),
    *(
        (
            f"{library}.BitsAndBytesConfig",
            {
                *("load_in_8bit", "load_in_4bit"),
                *("bnb_4bit_quant_type", "bnb_4bit_compute_dtype"),
            },
        )
        for library in ("diffusers", "transformers")
    ),
    *((f"{library}.TorchAoConfig", ["quant_type"]) for library in ("diffusers", "transformers")),
    *(
        (f"diffusers.{solver}.step", ["self", "model_output", "timestep", "sample"])
        for solver in SOLVERS
    ),
    *((f"diffusers.{solver}.step", {"generator", "return_dict"}) for solver in SOLVERS),
)
"""Functions and classes, and the arguments that they are given."""

_FILE = {"dtype", "local_files_only", "config"}
_FOLDER = {"dtype", "local_files_only", "variant", "use_safetensors"}
_PIPELINES = ("StableDiffusion", "StableDiffusionXL", "StableDiffusion3", "Flux")
_DENOISERS = ("UNet2DConditionModel", "SD3Transformer2DModel", "FluxTransformer2DModel")
TAKEN: tuple[tuple[str, set[str]], ...] = (
    *((f"diffusers.{kind}Pipeline.from_single_file", _FILE) for kind in _PIPELINES),
    *(
        (f"diffusers.{kind}.from_single_file", {*_FILE, "subfolder", "quantization_config"})
        for kind in _DENOISERS
    ),
    ("diffusers.DiffusionPipeline.from_pretrained", {*_FOLDER, "quantization_config"}),
    ("diffusers.UNet2DConditionModel.from_pretrained", {*_FOLDER, "subfolder"}),
    ("transformers.CLIPTextModel.from_pretrained", {*_FOLDER, "subfolder"}),
    ("transformers.T5EncoderModel.from_pretrained", {*_FOLDER, "subfolder"}),
    ("diffusers.UNet2DConditionModel.get_aug_embed", {"text_embeds", "time_ids"}),
)
"""Functions, and entries that they take out of a dict or of arguments without a list."""

ATTACHED = tuple(
    f"StableDiffusion{xl}{kind}Pipeline"
    for xl in ("", "XL")
    for kind in (
        *("", "Img2Img", "Inpaint"),
        *("ControlNet", "ControlNetImg2Img", "ControlNetInpaint"),
    )
)
VALUES = (
    ("diffusers.DiffusionPipeline.config_name", "model_index.json"),
    ("diffusers.ModelMixin.config_name", "config.json"),
    ("diffusers.schedulers.scheduling_utils.SCHEDULER_CONFIG_NAME", "scheduler_config.json"),
    ("diffusers.utils.SAFETENSORS_WEIGHTS_NAME", "diffusion_pytorch_model.safetensors"),
    ("diffusers.utils.SAFE_WEIGHTS_INDEX_NAME", "diffusion_pytorch_model.safetensors.index.json"),
    ("transformers.utils.CONFIG_NAME", "config.json"),
    ("transformers.utils.SAFE_WEIGHTS_NAME", "model.safetensors"),
    ("transformers.utils.SAFE_WEIGHTS_INDEX_NAME", "model.safetensors.index.json"),
    ("transformers.tokenization_utils_base.TOKENIZER_CONFIG_FILE", "tokenizer_config.json"),
    ("transformers.tokenization_utils_base.FULL_TOKENIZER_FILE", "tokenizer.json"),
)
"""What files are called."""


@cache
def pipeline(kind: str) -> Any:
    return PIPELINES[kind]()


def found(thing: Any, path: str) -> Any:
    for part in path.split("."):
        assert hasattr(thing, part), f"{path} is gone at {part}"
        thing = getattr(thing, part)
    return thing


def named(path: str) -> Any:
    thing = locate(path)
    assert thing is not None, f"{path} is gone"
    return thing


def check_arguments(function: Any, expected: list[str] | set[str]) -> None:
    known = list(inspect.signature(function).parameters)
    if isinstance(expected, list):
        assert known[: len(expected)] == expected
    else:
        assert expected <= set(known), f"not taken any more: {sorted(expected - set(known))}"


@pytest.mark.parametrize(
    ("kind", "path"), [(k, path) for kinds, paths in ATTRIBUTES for k in kinds for path in paths]
)
def test_a_pipeline_has_what_its_family_uses(kind, path) -> None:
    found(pipeline(kind), path)


@pytest.mark.parametrize(("kind", "path", "arguments"), ARGUMENTS)
def test_a_method_takes_what_it_is_given(kind, path, arguments) -> None:
    check_arguments(found(pipeline(kind), path), arguments)


@pytest.mark.parametrize(("path", "arguments"), FUNCTIONS)
def test_a_function_is_there_and_takes_what_it_is_given(path, arguments) -> None:
    check_arguments(named(path), arguments)


@pytest.mark.parametrize(("path", "name"), [(p, n) for p, names in TAKEN for n in sorted(names)])
def test_an_entry_is_taken_out_of_the_rest(path, name) -> None:
    function = named(path)
    assert name in inspect.signature(function).parameters or any(
        f"{quote}{name}{quote}" in inspect.getsource(function) for quote in "\"'"
    )


@pytest.mark.parametrize(("path", "value"), VALUES)
def test_files_are_called_as_before(path, value) -> None:
    assert named(path) == value


@pytest.mark.parametrize(
    "name",
    [
        *("native", "_native_math", "_native_efficient", "_native_cudnn", "_native_flash"),
        *("flash", "_flash_3", "sage", "xformers"),
    ],
)
def test_attention_back_ends_are_called_as_before(name) -> None:
    kinds = named("diffusers.models.attention_dispatch.AttentionBackendName")
    assert name in [kind.value for kind in kinds]


@pytest.mark.parametrize("kind", ATTACHED)
@pytest.mark.parametrize("name", ["guidance_scale", "do_classifier_free_guidance", "num_timesteps"])
def test_a_pipeline_tells_how_it_is_called(kind, name) -> None:
    """`compose.attach` asks while the pipeline runs."""
    assert hasattr(named(f"diffusers.{kind}"), name)


@pytest.mark.parametrize(("kind", "places"), [("sd15", [(0, 1)]), ("sdxl", [(0, 1), (2, 3)])])
def test_encoded_prompts_come_in_the_same_order(kind, places) -> None:
    """Prompt, negative prompt; in SDXL the same again for the pooled ones."""
    how = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    made, swapped = (
        pipeline(kind).encode_prompt(prompt=a, negative_prompt=b, **how)
        for a, b in (("cat", "dog"), ("dog", "cat"))
    )
    for cond, uncond in places:
        assert torch.equal(made[cond], swapped[uncond])
        assert not torch.equal(made[cond], made[uncond])


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_run_gets_a_list_of_timesteps_of_its_own(solver) -> None:
    """By which `compose.attach` knows that one has begun."""
    scheduler = named(f"diffusers.{solver}")()
    before = scheduler.timesteps
    scheduler.set_timesteps(4)
    assert scheduler.timesteps is not before


@pytest.mark.parametrize("solver", SOLVERS[1:])
def test_a_solver_tells_the_noise_level_of_every_step(solver) -> None:
    scheduler = named(f"diffusers.{solver}")()
    scheduler.set_timesteps(4)
    assert len(scheduler.sigmas) > len(scheduler.timesteps)


@pytest.mark.parametrize("solver", FLOW)
@pytest.mark.parametrize("name", ["init_noise_sigma", "scale_model_input"])
def test_flow_matching_begins_at_the_noise_and_takes_it_as_it_is(solver, name) -> None:
    """Families take the absence of these names for that."""
    assert not hasattr(named(f"diffusers.{solver}"), name)


@pytest.mark.parametrize("name", ["_forward_pre_hooks", "_forward_hooks", "_compiled_call_impl"])
def test_torch_keeps_hooks_and_compiled_calls_where_they_were(name) -> None:
    assert hasattr(nn.Linear(1, 1), name)


def test_hooks_of_offloading_and_of_diffusers_mark_modules_by_private_names() -> None:
    """Gated layers pass on the public names of their base only."""
    from accelerate.hooks import ModelHook, add_hook_to_module
    from diffusers.hooks import HookRegistry

    offloaded, hooked, plain = (nn.Linear(1, 1) for _ in range(3))
    add_hook_to_module(offloaded, ModelHook())
    HookRegistry.check_if_exists_or_initialize(hooked)
    marks = (vars(offloaded).keys() | vars(hooked).keys()) - vars(plain).keys()
    assert {"_hf_hook", "_old_forward", "_diffusers_hook"} <= marks
    assert all(mark.startswith("_") or mark == "forward" for mark in marks)


def test_peft_marks_modules_by_their_settings() -> None:
    peft = pytest.importorskip("peft")
    unet = tiny_pipeline().unet
    assert not hasattr(unet, "peft_config")
    unet.add_adapter(peft.LoraConfig(target_modules=["to_q"]))
    assert unet.peft_config


def test_the_last_norm_of_clip_lies_in_one_of_two_places() -> None:
    encoder = pipeline("sd15").text_encoder
    assert isinstance(getattr(encoder, "text_model", encoder).final_layer_norm, nn.LayerNorm)

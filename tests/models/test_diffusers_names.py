"""Names of diffusers that it does not promise to keep, one test each, so that an upgrade says which
is gone.

Nothing of the package is imported here: it may fail to import just because one of them is gone.
"""

from __future__ import annotations

import importlib
import inspect

import pytest

from tests.tiny_flux import tiny_flux
from tests.tiny_sd3 import tiny_sd3

PIPELINES = {"flux": tiny_flux, "sd3": tiny_sd3}


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        (
            "diffusers.pipelines.flux.pipeline_flux",
            "calculate_shift",
            ["image_seq_len", "base_seq_len", "max_seq_len", "base_shift", "max_shift"],
        ),
        ("diffusers.utils.torch_utils", "randn_tensor", ["shape", "generator", "device", "dtype"]),
    ],
)
def test_a_function_is_there(module, name, arguments) -> None:
    function = getattr(importlib.import_module(module), name, None)
    assert function is not None, f"{module} has no {name} any more"
    assert list(inspect.signature(function).parameters)[: len(arguments)] == arguments


@pytest.mark.parametrize("kind", PIPELINES)
@pytest.mark.parametrize(
    "name",
    [
        "_execution_device",
        "default_sample_size",
        "image_processor",
        "tokenizer_max_length",
        "vae_scale_factor",
        "scheduler.config.base_image_seq_len",
        "scheduler.config.base_shift",
        "scheduler.config.max_image_seq_len",
        "scheduler.config.max_shift",
        "scheduler.config.use_dynamic_shifting",
        "transformer.config.in_channels",
        "vae.config.latent_channels",
        "vae.config.scaling_factor",
        "vae.config.shift_factor",
    ],
)
def test_an_attribute_of_both_pipelines_is_there(kind, name) -> None:
    thing = PIPELINES[kind]()
    for part in name.split("."):
        assert hasattr(thing, part), f"{kind}: {name} is gone at {part}"
        thing = getattr(thing, part)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("flux", "guidance_embeds"),
        ("sd3", "patch_size"),
        ("sd3", "pos_embed_max_size"),
    ],
)
def test_an_entry_of_a_transformers_config_is_there(kind, name) -> None:
    assert name in PIPELINES[kind]().transformer.config


@pytest.mark.parametrize(
    ("kind", "method", "arguments"),
    [
        ("flux", "encode_prompt", ["prompt", "prompt_2", "device"]),
        ("flux", "encode_prompt", {"max_sequence_length"}),
        ("sd3", "encode_prompt", ["prompt", "prompt_2", "prompt_3", "device"]),
        (
            "sd3",
            "encode_prompt",
            {"do_classifier_free_guidance", "clip_skip", "max_sequence_length"},
        ),
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
        ("flux", "scheduler.set_timesteps", {"device", "sigmas", "mu"}),
    ],
)
def test_a_method_takes_what_it_is_given(kind, method, arguments) -> None:
    """In this order where a list is given, by name where a set is."""
    function = PIPELINES[kind]()
    for part in method.split("."):
        function = getattr(function, part)
    known = list(inspect.signature(function).parameters)
    if isinstance(arguments, list):
        assert known[: len(arguments)] == arguments
    else:
        assert arguments <= set(known), f"{method} takes {sorted(arguments - set(known))} no more"

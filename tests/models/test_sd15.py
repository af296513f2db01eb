"""Sites of Stable Diffusion 1.x against what the modules really see."""

from __future__ import annotations

import pytest

from compose.errors import ModelError
from compose.models.detect import family_of
from compose.models.sd15 import StableDiffusion15
from compose.types import Size
from tests.models.sites import check_sites
from tests.tiny import tiny_pipeline


@pytest.mark.parametrize("linear_projection", [False, True])
@pytest.mark.parametrize("size", [Size(32, 32), Size(40, 24), Size(36, 22)], ids=str)
def test_streams_and_grids_are_what_the_modules_see(linear_projection, size) -> None:
    family = StableDiffusion15(tiny_pipeline(linear_projection=linear_projection))
    assert check_sites(family, size) == {"image", "text", "vector"}


def test_blocks_are_named_after_their_place() -> None:
    family = StableDiffusion15(tiny_pipeline())
    named = {
        "down_blocks.1.resnets.0.conv1": "down.1",
        "down_blocks.0.downsamplers.0.conv": "down.0",
        "mid_block.attentions.0.proj_in": "mid",
        "up_blocks.2.attentions.0.transformer_blocks.0.attn1.to_q": "up.2",
        "conv_in": "",
    }
    for path, block in named.items():
        assert family.site("unet", path, family.denoiser.get_submodule(path)).block == block


def test_text_encoder_sites_are_text() -> None:
    family = StableDiffusion15(tiny_pipeline())
    path = "encoder.layers.0.mlp.fc1"
    module = family.components["text_encoder"].get_submodule(path)
    assert family.site("text_encoder", path, module).stream == "text"


def test_default_size_is_the_one_of_training() -> None:
    assert StableDiffusion15(tiny_pipeline()).default_size == Size(32, 32)


def test_unets_of_another_kind_are_refused_with_a_reason() -> None:
    pipe = tiny_pipeline()
    pipe.unet.register_to_config(in_channels=9)
    with pytest.raises(ModelError, match="9 channels"):
        family_of(pipe)
    pipe = tiny_pipeline()
    pipe.unet.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(ModelError, match="consistency-distilled"):
        family_of(pipe)


def test_no_part_of_a_prompt_is_cut_off() -> None:
    family = StableDiffusion15(tiny_pipeline())
    assert family.beyond_the_end("cat " * 80) == ""
    assert family.windows(["cat", "cat " * 80]) == 2

"""A training that starts from an exported pipeline, with more words than that knows."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compose.errors import ModelError
from compose.train import tokenizer as words_of
from compose.train.base import BaseOptions, train_base
from compose.train.common import RunDir
from compose.train.data import make_data
from compose.train.export import export
from compose.train.parts import build_text_encoder, build_unet
from compose.train.ranks import launch
from compose.train.start import adopt_vae, fresh_words, grown_text_encoder
from compose.train.state import load_state
from compose.train.tokenizer import Lookup, build_tokenizer
from compose.train.vae_parts import build_vae
from compose.world.captions import words
from compose.world.vocabulary import RARE_TOKENS

NEW = ("beside", "its", "stands")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of random weights from the days when three words were missing."""
    folder: Path = tmp_path_factory.mktemp("old")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words_of, "words", lambda: tuple(w for w in words() if w not in NEW))
        tokenizer = build_tokenizer()
    torch.manual_seed(1)
    tokenizer.save_pretrained(folder / "tokenizer")
    ends = tokenizer.bos_token_id, tokenizer.eos_token_id
    build_text_encoder(len(tokenizer), *ends, 32).save_pretrained(folder / "text_encoder")
    build_unet((32, 32, 32), 32).save_pretrained(folder / "unet")
    build_vae((16, 16, 16)).half().save_pretrained(folder / "vae")
    return folder


def test_words_keep_their_embeddings_and_new_ones_get_one(pipeline: Path) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    now, before = build_tokenizer(), CLIPTokenizer.from_pretrained(pipeline / "tokenizer")
    assert fresh_words(pipeline) == sorted(NEW) and len(now) > len(before)
    old = CLIPTextModel.from_pretrained(pipeline / "text_encoder").eval()
    new = grown_text_encoder(pipeline, now).eval()
    ids, former = now.get_vocab(), before.get_vocab()
    one, other = (model.get_input_embeddings().weight for model in (new, old))
    for token in (*(word + "</w>" for word in words() if word not in NEW), *RARE_TOKENS[-16:]):
        assert torch.equal(one[ids[token]], other[former[token]])
    assert any(ids[piece] != row for piece, row in former.items())
    for word in NEW:
        assert 0.01 < float(one[ids[word + "</w>"]].detach().std()) < 0.04
    assert new.config.vocab_size == len(now) and new.config.eos_token_id == now.eos_token_id
    text = ["a red cat on the left and a blue dog on the right", "mochi cat at night"]
    with torch.no_grad():
        states = [
            model(**tokenizer(text, padding="max_length", return_tensors="pt"))
            for model, tokenizer in ((new, now), (old, before))
        ]
    torch.testing.assert_close(states[0].last_hidden_state, states[1].last_hidden_state)
    torch.testing.assert_close(states[0].pooler_output, states[1].pooler_output)


def test_a_run_without_vae_goes_on_from_a_pipeline(pipeline: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    make_data(run, scenes=4, all_scenes=0, captions=2, seed=0, workers=0)
    options = BaseOptions(
        tmp_path, 60.0, math.inf, batch=2, lr=1e-4, compile=False, init=pipeline, max_steps=0
    )
    launch(train_base, options, 1, "cpu")
    state = load_state(tmp_path / "unet" / "state.safetensors")
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet").state_dict()
    assert all(torch.equal(state["models"][f"unet.{name}"], unet[name]) for name in unet)
    launch(train_base, replace(options, max_steps=1), 1, "cpu")
    after = load_state(tmp_path / "unet" / "state.safetensors")
    assert after["step"] == 1
    assert not torch.equal(after["models"]["unet.conv_in.weight"], unet["conv_in.weight"])
    export(tmp_path, tmp_path / "model")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "model", dtype=torch.float16)
    for name, value in AutoencoderKL.from_pretrained(pipeline / "vae").state_dict().items():
        assert torch.equal(pipe.vae.state_dict()[name], value.half())
    ids = Lookup.of(pipe.tokenizer).ids
    assert {ids[word] for word in NEW} <= set(range(pipe.text_encoder.config.vocab_size))


def test_a_run_with_a_vae_keeps_it(pipeline: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(ModelError, match="run the stage vae first"):
        adopt_vae(run, None)
    with pytest.raises(ModelError, match="nor in"):
        adopt_vae(run, tmp_path)
    folder = adopt_vae(run, pipeline)
    (folder / "mark").touch()
    assert adopt_vae(run, pipeline) == folder and (folder / "mark").exists()
    assert adopt_vae(run, None) == folder

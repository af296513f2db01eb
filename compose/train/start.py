"""Start a training from the weights of an exported pipeline, also when the world has new words."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from compose.errors import ModelError
from compose.train.common import RunDir
from compose.train.tokenizer import WORD_END
from compose.world.captions import words

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer


def adopt_vae(run: RunDir, pipeline: Path | None) -> Path:
    """The VAE of a run; a run without one takes over the VAE of a pipeline, as it is saved there.

    Args:
        run: to look in, and to copy to.
        pipeline: folder to copy from; None for no such help.

    Returns:
        Folder of the VAE in the run.

    Raises:
        ModelError: neither has one.
    """
    folder = run.stage("vae") / "weights"
    if (folder / "config.json").exists():
        return folder
    source = None if pipeline is None else pipeline / "vae"
    if source is None or not (source / "config.json").exists():
        raise ModelError(
            f"no VAE in {folder} nor in {source}: run the stage vae first, or give --init with the "
            f"folder of a whole pipeline"
        )
    partial = folder.with_name("weights.part")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    partial.rename(folder)
    run.log("unet", vae=str(source))
    return folder


def load_models(pipeline: Path, tokenizer: CLIPTokenizer) -> nn.ModuleDict:
    """UNet and text encoder of a pipeline in float32, the latter for this tokenizer.

    Args:
        pipeline: folder with unet, text_encoder and tokenizer.
        tokenizer: of the run; it may know words that the pipeline's does not.

    Returns:
        "unet" and "text_encoder", in training mode.
    """
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet", torch_dtype=torch.float32)
    text = grown_text_encoder(pipeline, tokenizer)
    return nn.ModuleDict({"unet": unet, "text_encoder": text}).train()


@torch.no_grad()
def grown_text_encoder(pipeline: Path, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The pipeline's text encoder with the rows of another tokenizer's vocabulary.

    A piece that both vocabularies hold keeps its embedding, whatever its id; the others start
    afresh, as in an untrained text encoder.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    old = CLIPTextModel.from_pretrained(pipeline / "text_encoder", dtype=torch.float32)
    ids = {
        "vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    new = CLIPTextModel(CLIPTextConfig.from_dict(old.config.to_dict() | ids))
    state, own = old.state_dict(), new.state_dict()
    for name, value in state.items():
        if not name.endswith("token_embedding.weight"):
            own[name].copy_(value)
    known = _vocabulary(pipeline)
    pairs = [(row, known[piece]) for piece, row in tokenizer.get_vocab().items() if piece in known]
    rows, sources = (list(part) for part in zip(*pairs, strict=True))
    new.get_input_embeddings().weight[rows] = old.get_input_embeddings().weight[sources]
    return new


def fresh_words(pipeline: Path) -> list[str]:
    """Words of today that a pipeline's tokenizer does not have as one piece."""
    known = _vocabulary(pipeline)
    return [word for word in words() if word + WORD_END not in known]


def _vocabulary(pipeline: Path) -> dict[str, int]:
    from transformers import CLIPTokenizer

    ids: dict[str, int] = CLIPTokenizer.from_pretrained(pipeline / "tokenizer").get_vocab()
    return ids

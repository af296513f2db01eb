"""TARA: every adapter acts on the words that call it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compose.gate import Gate
from compose.method import GatedMethod, param
from compose.run import Run
from compose.types import Step


@dataclass(frozen=True, kw_only=True)
class Tara(GatedMethod):
    """Each adapter changes the text tokens that call it, and no other adapter does.

    Peng et al. 2025 and the released code (`tara.py` of YuqiPeng77/TARA): in cross-attention's keys
    and values an adapter acts on the positions of its own trigger, in every tokenizer and wherever
    it stands, and on the same positions of the negative prompt. Layers on image tokens and without
    tokens are left as they are under scope=reference; nothing there keeps adapters apart, so take
    `tara*regional`, or adapters of cross-attention alone.

    In the joint transformers of Stable Diffusion 3 and FLUX the gate acts on the text's own layers
    and on the text rows of layers that see text and image. Words mix in every block there, so the
    gate keeps adapters apart in each layer and not over all of them. Text encoders come before it:
    an adapter's part of them, and with it the pooled text of SDXL, SD3 and FLUX, which has no
    tokens, acts at its full weight.
    """

    name: ClassVar[str] = "tara"
    title: ClassVar[str] = "TARA"
    source: ClassVar[str] = "https://arxiv.org/abs/2508.08812"
    minimum: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"prompt", "spans"})
    chooses: ClassVar[str] = "words"
    plain_alone: ClassVar[bool] = False

    scope: str = param(
        "reference",
        "reference: layers without text tokens are left as they are; strict: adapters do not act in"
        " them",
        choices=("reference", "strict"),
    )
    words: str = param(
        "trigger",
        "trigger: an adapter's own words are its trigger; class: also the class word right behind"
        " it, as the cat in 'mochi cat', where the file names one",
        choices=("trigger", "class"),
    )
    text: str = param(
        "own",
        "own: an adapter acts on its own words alone; not_others: on all text but the words of the"
        " others, as in FreeFuse",
        choices=("own", "not_others"),
    )

    def prepare(self, run: Run) -> Tensor:
        """The gate over the text, [images, T, K]."""
        count = len(run.adapters)
        tokens = run.text([1.0] * count).cond.embeds.shape[1]
        own = torch.zeros(run.images, tokens, count)
        for k in range(count):
            for row, at in enumerate(run.positions(k, class_word=self.words == "class")):
                own[row, list(at), k] = 1
        if self.text == "own":
            return own
        free = own.sum(dim=-1, keepdim=True) == 0  # nobody's words
        return torch.where(free, 1.0, own)

    def gate(self, run: Run, step: Step) -> Gate:
        """Own words, under the weights."""
        weight = torch.tensor([run.weights]).expand(run.images, -1)
        image = weight.new_zeros(*weight.shape, 1, 1) if self.scope == "strict" else None
        return Gate(weight, text=run.state, image=image)

"""TARA: what a training adds so that an adapter acts on the words that call it.

Two parts, after Peng et al. 2025 (https://arxiv.org/abs/2508.08812) and the released code
(`train_dreambooth_tara_sd.py` of YuqiPeng77/TARA). In the keys and values of cross-attention the
adapter changes the trigger's tokens alone, as `compose.fusion.tara` has it when pictures are made.
And a loss draws the trigger's keys to those that the base has for the class word, so that image
tokens look at the trigger where they would look at the class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compose.train.lora_words import Words

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


class TriggerGate:
    """Holds an adapter's change of a layer on text back, but on the trigger's tokens.

    It is a forward hook behind the first factor: the second then sees zeros elsewhere, so the
    change is exactly zero there, and so is the gradient. It keeps nothing of what it sees: a layer
    may run any number of times in a step, as it does under gradient checkpointing.

    Attributes:
        trigger: [B, T, 1] where the trigger stands in the rows of the running step. It stays for
            the way back, on which checkpointing runs the layers again.
    """

    trigger: Tensor

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...], low: Tensor) -> Tensor:
        """The first factor's output [B, T, r], zero beside the trigger."""
        return low * self.trigger


@dataclass(frozen=True)
class Keys:
    """What makes the keys of one cross-attention.

    Attributes:
        base: [D_out, D] weight of the base.
        down: [r, D] first factor of the adapter.
        up: [D_out, r] second factor.
        scale: of their product.
    """

    base: Tensor
    down: Tensor
    up: Tensor
    scale: float


@dataclass(frozen=True)
class Tara:
    """TARA in one training.

    Attributes:
        gate: in front of the second factors of the layers on text.
        keys: of every cross-attention.
        power: as of `align_loss`.
    """

    gate: TriggerGate
    keys: Sequence[Keys]
    power: int

    def see(self, words: Words) -> None:
        """Tell the layers where the words stand in the rows of the next forward."""
        self.gate.trigger = words.trigger[..., None]

    def align(self, texts: Tensor, words: Words) -> Tensor:
        """The alignment loss [] of a batch."""
        return align_loss(self.keys, texts, words, self.power)


@contextmanager
def tara(pipe: StableDiffusionPipeline, name: str, power: int) -> Iterator[Tara]:
    """Put the gate into an adapter for a while.

    Args:
        pipe: whose UNet has the adapter.
        name: of the adapter.
        power: as of `align_loss`.
    """
    layers = _text_layers(pipe, name)
    gate = TriggerGate()
    keys = [
        Keys(
            layer.get_base_layer().weight,
            layer.lora_A[name].weight,
            layer.lora_B[name].weight,
            layer.scaling[name],
        )
        for path, layer in layers.items()
        if path.endswith(".to_k")
    ]
    hooks = [layer.lora_A[name].register_forward_hook(gate) for layer in layers.values()]
    try:
        yield Tara(gate, keys, power)
    finally:
        for hook in hooks:
            hook.remove()


def _text_layers(pipe: StableDiffusionPipeline, name: str) -> dict[str, Any]:
    """Path to layer of PEFT, of those that the family says are on text."""
    from peft.tuners.lora import LoraLayer

    from compose.models.sd15 import StableDiffusion15

    family = StableDiffusion15(pipe)
    return {
        path: module
        for path, module in pipe.unet.named_modules()
        if isinstance(module, LoraLayer)
        and name in module.lora_A
        and family.site("unet", path, module).stream == "text"
    }


def align_loss(keys: Sequence[Keys], texts: Tensor, words: Words, power: int = 1) -> Tensor:
    """How far the trigger's keys are from those that the base has for the class word, [].

    The mean over layers, rows and features of ``|K x_trigger + dK x_trigger - K x_class|``, where
    either x is the mean over all tokens of the word; keys are linear, so the mean of the tokens has
    the mean of their keys. Rows that lack either word count for nothing; without any others the
    loss is 0. The released code has the absolute difference (power 1).

    Args:
        keys: at least one.
        texts: [B, T, D] embeddings.
        words: where the words stand in them, [B, T].
        power: 1 or 2.
    """
    trigger, kind = _mean(texts, words.trigger), _mean(texts, words.class_word)
    rows = []
    for layer in keys:
        change = functional.linear(functional.linear(trigger, layer.down), layer.up) * layer.scale
        gap = functional.linear(trigger - kind, layer.base) + change
        rows.append(gap.abs().pow(power).mean(dim=1))
    counts = words.both
    total = torch.stack(rows).mean(dim=0).masked_fill(~counts, 0).sum()
    return total / counts.sum().clamp_min(1)


def _mean(texts: Tensor, mask: Tensor) -> Tensor:
    """Mean over the chosen tokens, [B, D]; zeros where none is chosen."""
    weights = mask.to(texts.dtype)
    return torch.einsum("btd,bt->bd", texts, weights) / weights.sum(dim=1, keepdim=True).clamp_min(
        1
    )

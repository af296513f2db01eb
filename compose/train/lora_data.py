"""What an adapter is trained on: pictures with captions, encoded once, drawn from at every step."""

from __future__ import annotations

import logging
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from compose.errors import ConceptError
from compose.train.lora_config import LoraConfig
from compose.train.lora_words import Words, find_words
from compose.world.captions import caption, unknown_words
from compose.world.concept_captions import concept_caption
from compose.world.concepts import Concept, concept_scenes
from compose.world.renderer import render
from compose.world.sampling import sample_scene

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

_LOG = logging.getLogger(__name__)
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_SIDE = re.compile(r"\b(left|right)", re.IGNORECASE)
_PRIOR_SCENES = 128
_PIXELS_AT_ONCE = 2**20  # a VAE encodes 64 pictures of 128 pixels or 4 of 512 in one call


@dataclass(frozen=True)
class Pictures:
    """Pictures and what may be said about them.

    Attributes:
        images: [N, 3, S, S] in [0, 1].
        captions: N groups, each of at least one caption.
    """

    images: Tensor
    captions: tuple[tuple[str, ...], ...]

    def with_mirrored(self) -> Pictures:
        """These and their mirror images, the latter with the captions that name no side."""
        free = [tuple(text for text in group if not _SIDE.search(text)) for group in self.captions]
        rows = [row for row, group in enumerate(free) if group]
        mirrored = self.images[rows].flip(-1)
        return Pictures(
            torch.cat([self.images, mirrored]), (*self.captions, *(free[row] for row in rows))
        )


@dataclass(frozen=True)
class Batch:
    """What one step sees.

    Attributes:
        latents: [B, C, h, w] clean, as the UNet takes them.
        texts: [B, T, D] caption embeddings.
        words: where the concept's words stand in the captions, [B, T].
    """

    latents: Tensor
    texts: Tensor
    words: Words

    @classmethod
    def joined(cls, parts: Sequence[Batch]) -> Batch:
        """Batches one after another."""
        trigger = torch.cat([part.words.trigger for part in parts])
        class_word = torch.cat([part.words.class_word for part in parts])
        return cls(
            torch.cat([part.latents for part in parts]),
            torch.cat([part.texts for part in parts]),
            Words(trigger, class_word),
        )


@dataclass(frozen=True)
class Bank:
    """Encoded pictures, on the device that trains.

    Attributes:
        mean: [N, C, h, w] of the VAE's posterior, unscaled.
        std: [N, C, h, w].
        scale: factor between the VAE's latents and the UNet's.
        texts: [M + 1, T, D] caption embeddings; row 0 is the empty caption.
        words: where the concept's words stand in the texts, [M + 1, T].
        table: [N, P] rows of `texts` that fit a picture; P is the largest number of captions of
            any picture.
    """

    mean: Tensor
    std: Tensor
    scale: float
    texts: Tensor
    words: Words
    table: Tensor

    def draw(self, count: int, dropout: float, rng: torch.Generator) -> Batch:
        """Draw pictures, each with one of its captions.

        Args:
            count: how many, with replacement.
            dropout: share that gets the empty caption.
            rng: on the bank's device, so that no step waits for a copy.

        Returns:
            Scaled latents from the VAE's posterior, and a caption for each.
        """
        where: dict[str, Any] = {"generator": rng, "device": self.mean.device}
        rows = torch.randint(len(self.table), (count,), **where)
        said = self.table[rows, torch.randint(self.table.shape[1], (count,), **where)]
        said = said.masked_fill(torch.rand(count, **where) < dropout, 0)
        noise = torch.randn((count, *self.mean.shape[1:]), **where)
        latents = (self.mean[rows] + self.std[rows] * noise) * self.scale
        return Batch(latents, self.texts[said], self.words.rows(said))


def picture_size(pipe: StableDiffusionPipeline) -> int:
    """Side in pixels of the pictures that a pipeline was made for."""
    return int(pipe.unet.config.sample_size) * int(pipe.vae_scale_factor)


def concept_pictures(config: LoraConfig, size: int) -> Pictures:
    """The training pictures of a concept: its own folder's, or drawn from its words."""
    concept, settings = config.concept, config.settings
    if concept.images is not None:
        pictures = _from_folder(concept, concept.images, size)
    else:
        rng = random.Random(f"{settings.seed}/captions")
        scenes = concept_scenes(concept, concept.count, settings.seed, settings.company)
        groups = [
            [concept_caption(concept, scene, rng) for _ in range(settings.captions)]
            for scene in scenes
        ]
        pictures = Pictures(_resize(render(scenes), size), tuple(map(tuple, groups)))
    return pictures.with_mirrored() if settings.flip else pictures


def prior_pictures(config: LoraConfig, size: int) -> Pictures:
    """Pictures of the world without the concept: its neighbours, to be kept as they are."""
    settings = config.settings
    rng = random.Random(f"{settings.seed}/prior")
    scenes = [sample_scene(rng) for _ in range(_PRIOR_SCENES)]
    groups = tuple(tuple(caption(scene, rng) for _ in range(2)) for scene in scenes)
    return Pictures(_resize(render(scenes), size), groups)


def _resize(images: Tensor, size: int) -> Tensor:
    """Square pictures [N, 3, s, s] at another size [N, 3, size, size]."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True).clamp(0, 1)


def _from_folder(concept: Concept, folder: Path, size: int) -> Pictures:
    """Pictures of a folder by name, each with the lines of the .txt file beside it."""
    files = (
        sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)
        if folder.is_dir()
        else []
    )
    if not files:
        raise ConceptError(
            f"images: {folder} holds no pictures, a folder with png, jpg or webp files is expected"
        )
    captions = tuple(_captions(concept, file) for file in files)
    trigger = concept.trigger.lower()
    missing = [
        file.name
        for file, group in zip(files, captions, strict=True)
        if trigger not in " ".join(group).lower()
    ]
    if missing:
        _LOG.warning(
            "captions of %s lack the trigger %s; it cannot call them up",
            ", ".join(missing),
            concept.trigger,
        )
    return Pictures(torch.stack([_read(file, size) for file in files]), captions)


def _captions(concept: Concept, picture: Path) -> tuple[str, ...]:
    """The captions of one picture, or the plainest one."""
    beside = picture.with_suffix(".txt")
    lines = beside.read_text(encoding="utf-8").splitlines() if beside.is_file() else []
    found = tuple(line.strip() for line in lines if line.strip())
    return found or (f"a {concept.trigger} {concept.class_word}".strip(),)


def _read(file: Path, size: int) -> Tensor:
    """The middle square of a picture, [3, size, size] in [0, 1]; transparent parts become white."""
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGBA")
    except OSError as error:
        raise ConceptError(
            f"{file} cannot be read as a picture ({error}); repair it or take it out"
        ) from error
    white = Image.new("RGBA", image.size, "white")
    square = ImageOps.fit(
        Image.alpha_composite(white, image).convert("RGB"), (size, size), Image.Resampling.LANCZOS
    )
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255


def encode(pictures: Pictures, concept: Concept, pipe: StableDiffusionPipeline) -> Bank:
    """Run pictures through the VAE and captions through the text encoder, once.

    Args:
        pictures: what to train on.
        concept: whose words are looked up in the captions.
        pipe: on the device that trains.
    """
    captions = sorted({caption for group in pictures.captions for caption in group})
    row = {caption: number for number, caption in enumerate(captions, start=1)}
    width = max(len(group) for group in pictures.captions)
    table = [[row[group[i % len(group)]] for i in range(width)] for group in pictures.captions]
    chunk = max(1, _PIXELS_AT_ONCE // math.prod(pictures.images.shape[-2:]))
    with torch.no_grad():
        found = [
            pipe.vae.encode(part.to(pipe.device, pipe.vae.dtype) * 2 - 1).latent_dist
            for part in torch.split(pictures.images, chunk)
        ]
    return Bank(
        torch.cat([posterior.mean for posterior in found]).float(),
        torch.cat([posterior.std for posterior in found]).float(),
        float(pipe.vae.config.scaling_factor),
        _embed(["", *captions], pipe),
        find_words(
            *(["", *captions], concept.trigger, concept.class_word, pipe.tokenizer, pipe.device)
        ),
        torch.tensor(table, device=pipe.device),
    )


def _embed(captions: Sequence[str], pipe: StableDiffusionPipeline) -> Tensor:
    """Caption embeddings [M, T, D] as the pipeline itself makes them."""
    with torch.no_grad():
        parts = [
            pipe.encode_prompt(list(captions[i : i + 64]), pipe.device, 1, False)[0]
            for i in range(0, len(captions), 64)
        ]
    return torch.cat(parts).float()


def warn_of_words(config: LoraConfig, pictures: Pictures, pipe: StableDiffusionPipeline) -> None:
    """Warn of what the text encoder cannot know: a trigger in pieces, words it never saw."""
    tokenizer, trigger = pipe.tokenizer, config.concept.trigger
    known = tokenizer.get_vocab()
    pieces = tokenizer.tokenize(trigger)
    if len(pieces) != 1:
        free = "; free ones here: <v1> to <v16>" if "<v1>" in known else ""
        _LOG.warning(
            "trigger %s falls into %d tokens (%s) and is learned badly, one rare token is better%s",
            *(trigger, len(pieces), " ".join(pieces), free),
        )
    if "<v1>" in known and config.concept.images is not None:
        strange = sorted(
            {word for group in pictures.captions for text in group for word in unknown_words(text)}
        )
        if strange:
            _LOG.warning(
                "the embedded model never learned these words of the captions: %s",
                ", ".join(strange),
            )

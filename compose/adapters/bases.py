"""Which base model an adapter was made for, and which one is here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from compose.adapters.keys import component, inside
from compose.adapters.originals import architecture, flux, mmdit, unet
from compose.adapters.outline import Outline
from compose.adapters.safe import shown

LABELS: Mapping[str, str] = {
    "sd15": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "sd3": "Stable Diffusion 3",
    "flux": "FLUX.1",
    "flux2": "FLUX.2",
    "embedded": "the embedded model of lora-compose",
}

# What files write about their base, in small letters and digits only; the first found counts.
_WRITTEN: tuple[tuple[str, str], ...] = (
    ("loracomposeworld", "embedded"),
    ("flux2", "flux2"),
    ("flux", "flux"),
    ("stablediffusion3", "sd3"),
    ("stablediffusionv3", "sd3"),
    ("sd3", "sd3"),
    ("sdxl", "sdxl"),
    ("stablediffusionxl", "sdxl"),
    ("pony", "sdxl"),
    ("illustrious", "sdxl"),
    ("noobai", "sdxl"),
    ("stablediffusionv2", "sd2"),
    ("stablediffusion2", "sd2"),
    ("sdv2", "sd2"),
    ("sd2", "sd2"),
    ("stablediffusionv1", "sd15"),
    ("stablediffusion1", "sd15"),
    ("sdv1", "sd15"),
    ("sd1", "sd15"),
)

Bases = tuple[str, ...]
"""Short names of the bases that something can be; empty when nothing is known."""

_UNETS: Bases = ("sd15", "sd2", "embedded")  # one family: they differ in widths only
_TWO_STREAMS: Bases = ("sd3", "flux")

# Paths inside a denoiser that only some bases have; the first sign that any path shows counts.
_SIGNS: tuple[tuple[re.Pattern[str], Bases], ...] = (
    (re.compile(r".*(?:to_qkv_mlp_proj|(?:double|single)_stream_modulation)"), ("flux2",)),
    (re.compile(r"single_transformer_blocks[._]\d"), ("flux",)),
    (flux.SIGN, ("flux",)),
    (mmdit.SIGN, ("sd3",)),
    (re.compile(r"transformer_blocks[._]\d+[._](?:attn1|img_m|txt_m)"), ()),  # PixArt, Qwen-Image
    (re.compile(r"transformer_blocks[._]\d+[._]attn2[._]|pos_embed[._]proj$"), ("sd3",)),
    (
        re.compile(
            r"transformer_blocks[._]\d+[._](?:attn[._](?:add_|to_add_)|(?:ff|norm1)_context)"
        ),
        _TWO_STREAMS,
    ),
    (re.compile(r"label_emb|add_embedding"), ("sdxl",)),
    (re.compile(r"(?:down|up)_blocks[._]\d|mid_block[._]"), (*_UNETS, "sdxl")),
    (unet.SIGN, (*_UNETS, "sdxl")),
)
_CROSS = re.compile(r"(?!transformer_blocks).*attn2[._](?:processor\.)?to_[kv](?:_lora)?$")
_CROSS_WIDTHS = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
_STREAM = re.compile(r"transformer_blocks[._]\d+[._]attn[._](?:to|add)_[qkv]")
_STREAM_WIDTHS = {1536: "sd3", 2432: "sd3", 3072: "flux"}
_T5 = re.compile(r".*(?:SelfAttention|DenseReluDense)")


@dataclass(frozen=True)
class Evidence:
    """What tells a base.

    Attributes:
        paths: inside the denoiser.
        texts: component name of a text encoder to the paths inside it.
        cross: width of the text that the cross-attention of a UNet reads.
        stream: width of the tokens in a transformer of two streams.
    """

    paths: tuple[str, ...]
    texts: Mapping[str, tuple[str, ...]]
    cross: int | None
    stream: int | None


def canonical(text: str) -> str:
    """Short name of a base from what a file or a site calls it; empty when it is not known."""
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    return next((base for sign, base in _WRITTEN if sign in plain), "")


def label(base: str) -> str:
    """A base in words."""
    return LABELS.get(base, base)


def own_component(base: str, component: str) -> str:
    """What a base calls a component that a file names as other bases do."""
    if base in ("", *_UNETS, "sdxl"):
        return component
    texts = flux.TEXT_ENCODERS if base == "flux" else {}
    return "transformer" if component == "unet" else texts.get(component, component)


def evidence(modules: Iterable[tuple[str, str, int]]) -> Evidence:
    """Collect what tells a base.

    Args:
        modules: component (empty where unknown), path inside it, and number of inputs.
    """
    paths: list[str] = []
    texts: dict[str, list[str]] = {}
    cross = stream = None
    for part, path, width in modules:
        if part.startswith("text_encoder"):
            texts.setdefault(part, []).append(path)
            continue
        paths.append(path)
        if cross is None and _CROSS.match(path):
            cross = width
        if stream is None and _STREAM.match(path):
            stream = width
    return Evidence(tuple(paths), {t: tuple(p) for t, p in texts.items()}, cross, stream)


def shown_bases(found: Evidence) -> Bases:
    """The bases that names and widths allow."""
    if not found.paths:
        return _by_texts(found.texts)
    allowed = _by_denoiser(found.paths)
    if allowed == _TWO_STREAMS and found.stream in _STREAM_WIDTHS:
        return (_STREAM_WIDTHS[found.stream],)
    if allowed and "sd15" not in allowed:
        return allowed
    if found.cross in _CROSS_WIDTHS:
        return (_CROSS_WIDTHS[found.cross],)
    return ("sdxl",) if allowed and "text_encoder_2" in found.texts else allowed


def _by_denoiser(paths: tuple[str, ...]) -> Bases:
    found = (bases for sign, bases in _SIGNS if any(sign.match(path) for path in paths))
    return next(found, ())


def _by_texts(texts: Mapping[str, tuple[str, ...]]) -> Bases:
    """Without a denoiser: the second encoder is CLIP in SDXL and SD3, and T5 in FLUX."""
    if any(_T5.match(path) for path in texts.get("text_encoder_2", ())):
        return ("flux",)
    if "text_encoder_3" in texts:
        return _TWO_STREAMS
    return ("sdxl", "sd3") if "text_encoder_2" in texts else ()


def file_evidence(outline: Outline) -> Evidence:
    """What tells the base of a file."""
    return evidence(
        (component(p.where), inside(p.where), p.down_shape[1]) for p in outline.pairs.values()
    )


def bases_of_file(outline: Outline, stated: str = "") -> Bases:
    """What the base of a file can be.

    Args:
        outline: names and shapes, which count first.
        stated: what the file says, which decides where these leave a choice.
    """
    allowed = shown_bases(file_evidence(outline))
    said = canonical(stated)
    if allowed == ("flux",) and said == "flux2":  # in the first release its blocks are called alike
        return (said,)
    return (said,) if said and (said in allowed or not allowed) else allowed


def base_of_file(outline: Outline, stated: str = "") -> str:
    """Short name of the base of a file, or nothing where it cannot be told."""
    bases = bases_of_file(outline, stated)
    return bases[0] if len(bases) == 1 else ""


Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Component to path to the shape [d_out, d_in, ...] of a model's module."""


def model_evidence(modules: Shapes) -> Evidence:
    """What tells the base of a model."""
    return evidence((c, p, s[1]) for c, paths in modules.items() for p, s in paths.items())


def bases_of_model(modules: Shapes) -> Bases:
    """The bases whose adapters have the names of a model; widths are another matter."""
    for paths in modules.values():
        match architecture({path: shape[0] for path, shape in paths.items()}):
            case "flux":
                return ("flux",)
            case "mmdit":
                return ("sd3",)
            case "unet":
                return ("sdxl",) if "add_embedding.linear_1" in paths else _UNETS
    return ()


def file_in_words(outline: Outline, stated: str = "") -> str:
    """Which base a file was made for, for a message; arguments as of `bases_of_file`."""
    bases = bases_of_file(outline, stated)
    return _in_words(bases, file_evidence(outline).cross, stated)


def model_in_words(modules: Shapes) -> str:
    """Which base a model is, for a message."""
    bases, found = bases_of_model(modules), model_evidence(modules)
    return _in_words(bases if len(bases) == 1 else shown_bases(found), found.cross)


def _in_words(bases: Bases, cross: int | None, stated: str = "") -> str:
    """Bases, with the little that is known of unknown ones."""
    if 0 < len(bases) < 3:
        return " or ".join(label(base) for base in bases)
    if stated:
        return shown(stated)
    if cross:
        return f"a model with cross-attention {cross} wide"
    return "a Stable Diffusion UNet" if bases else "an unknown model"

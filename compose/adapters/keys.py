"""How the names of tensors in adapter files are put together.

A name is ``stem`` + role: the stem says which module, the role which of its tensors. Every layout
has its own spelling of both::

    diffusers       unet.<path>.lora_A[.<adapter>].weight       text_encoder.<path>.lora_B.weight
    peft            base_model.model.<path>.lora_A.weight
    diffusers-old   unet.<path>.attn1.processor.to_q_lora.down.weight
                    text_encoder.<path>.q_proj.lora_linear_layer.up.weight
                    unet.<path>.to_q.lora.down.weight
    kohya           lora_unet_<path with _ for .>.lora_down.weight, .lora_up.weight, .alpha
    kohya-dotted    lora_unet.<path>.lora_down.weight           (OneTrainer)
    xlabs           double_blocks.<n>.processor.qkv_lora1.down.weight

A path is diffusers' own or one of the model's first release; `compose.adapters.originals` knows
those. Instead of a component, ComfyUI and the trainers around it write ``diffusion_model.<path>``
and ``text_encoders.clip_l.transformer.<path>``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Layout = Literal["diffusers", "peft", "diffusers-old", "kohya", "kohya-dotted", "xlabs"]
Role = Literal["down", "up", "alpha"]


@dataclass(frozen=True)
class Key:
    """A name of a tensor, taken apart.

    Attributes:
        stem: the module, in the spelling of the file.
        role: which tensor of it.
        layout: whose spelling it is; None for alpha, which several share.
        adapter: name of the adapter inside the file, where the layout writes one.
    """

    stem: str
    role: Role
    layout: Layout | None = None
    adapter: str = ""


@dataclass(frozen=True)
class Address:
    """Where a file says that a module lies.

    Attributes:
        components: parts of the model it may lie in; empty where the file does not say, or says it
            in the first segment of the path.
        paths: alternatives for the path inside the component.
        flat: whether the path is written with underscores for dots.
    """

    components: tuple[str, ...]
    paths: tuple[str, ...]
    flat: bool = False


_AB = re.compile(r"(?P<stem>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")
_DOWN_UP = re.compile(r"(?P<stem>.+)\.lora_(?P<side>down|up)\.weight")
_OLD = re.compile(
    r"(?P<stem>.+?)(?:\.lora_linear_layer|\.lora|(?<=_lora))\.(?P<side>down|up)\.weight"
)
_XLABS = re.compile(
    r"(?P<stem>(?:.+\.)?(?:double|single)_blocks\.\d+(?:\.processor)?\.(?:qkv|proj)_lora[12]?)"
    r"\.(?P<side>down|up)\.weight"
)
_ALPHA = re.compile(r"(?P<stem>.+?)(?:\.lora_linear_layer|\.lora)?\.alpha")

_ROLES: dict[str, Role] = {"A": "down", "B": "up", "down": "down", "up": "up"}

_PEFT = "base_model.model."
_DENOISER = ("unet", "transformer")
_KOHYA = re.compile(  # SimpleTuner, which trains through LyCORIS, writes that library's own prefix
    r"(?:lora_(?P<part>unet|transformer|te[123]?)|lycoris)(?P<sep>[_.])(?P<path>.+)"
)
_PARTS = {
    None: _DENOISER,
    "unet": _DENOISER,  # kohya calls every denoiser so
    "transformer": ("transformer",),
    "te": ("text_encoder",),
    "te1": ("text_encoder",),
    "te2": ("text_encoder_2",),
    "te3": ("text_encoder_3",),
}
_COMFY = re.compile(
    r"(?:diffusion_model|(?:text_encoders\.)?(?P<text>clip_[lg]|t5(?:xxl)?)(?:\.transformer)?)\.(?=.)"
)
_COMFY_PARTS = {
    None: _DENOISER,
    "clip_l": ("text_encoder",),
    "clip_g": ("text_encoder_2",),
    "t5": ("text_encoder_3",),
    "t5xxl": ("text_encoder_3",),
}
_COMPONENT = re.compile(r"(unet|prior|transformer(?:_\d+)?|text_encoder(?:_\d+)?)\.(?=.)")

_LEAVES = {  # of attention, when diffusers kept factors in attention processors
    "to_q_lora": ("to_q", "q_proj"),
    "to_k_lora": ("to_k", "k_proj"),
    "to_v_lora": ("to_v", "v_proj"),
    "to_out_lora": ("to_out.0", "out_proj"),
}

_KINDS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"\.hada_(?:w[12]_[ab]|t[12])$", "LoHa (Hadamard product)"),
        (r"\.lokr_", "LoKr (Kronecker product)"),
        (r"\.dora_scale$|\.lora_magnitude_vector(?:\.|$)", "DoRA (weight decomposition)"),
        (r"\.lora_mid\.weight$", "LoCon with a Tucker core (lora_mid)"),
        (r"\.b?oft_", "OFT (orthogonal transformation)"),
        (r"\.on_input$|\.ia3_l(?:\.|$)", "IA3 (scaled activations)"),
        (r"\.[ab][12]\.weight$", "GLoRA"),
        (r"\.[wb]_norm$", "changed norm layers (w_norm, b_norm)"),
        (r"\.(?:diff|diff_b|set_weight|reshape_weight)$", "full weight differences (diff)"),
        (r"\.lora_embedding_[AB](?:\.|$)", "LoRA of an embedding"),
        (
            r"(?:query|key)_norm\.scale$|\.norm_(?:added_)?[qk]\.weight$",
            "FLUX control LoRA (changed norms and inputs)",
        ),
        (
            r"\.lora_(?:[AB](?:\.[^.]+)?|down|up)\.bias$",
            "LoRA with biases (lora_B.bias), as FLUX control LoRAs are",
        ),
        (r"\.(?:lora_E|ranknum)(?:\.|$)", "AdaLoRA"),
        (r"\.vera_", "VeRA"),
        (r"^lora_controlnet$", "Control-LoRA"),
    )
)

_FOREIGN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"^model\.diffusion_model\.", "a whole model in one file"),
        (r"^(?:emb_params|clip_[lg]|<.+>)$", "a textual inversion embedding"),
        (r"^(?:image_proj|ip_adapter)\.|ip_adapter_double_stream", "an IP-Adapter"),
        (r"^control_model\.|^controlnet_", "a ControlNet"),
        (r"^(?:down_blocks|up_blocks|mid_block|double_blocks|transformer_blocks)\.", "a denoiser"),
        (r"^(?:text_model|encoder)\.", "a text encoder or VAE"),
    )
)


def parse(name: str) -> Key | None:
    """Take a tensor's name apart.

    Returns:
        Its parts; None for a name that no layout of plain LoRA has.
    """
    if found := _AB.fullmatch(name):
        layout: Layout = "peft" if name.startswith(_PEFT) else "diffusers"
        return Key(found["stem"], _ROLES[found["side"]], layout, found["adapter"] or "")
    if found := _DOWN_UP.fullmatch(name):
        part = _KOHYA.fullmatch(found["stem"])
        flat = part is not None and part["sep"] == "_"
        return Key(found["stem"], _ROLES[found["side"]], "kohya" if flat else "kohya-dotted")
    if found := _XLABS.fullmatch(name):
        return Key(found["stem"], _ROLES[found["side"]], "xlabs")
    if found := _OLD.fullmatch(name):
        return Key(found["stem"], _ROLES[found["side"]], "diffusers-old")
    if found := _ALPHA.fullmatch(name):
        return Key(found["stem"], "alpha")
    return None


def address(stem: str, layout: Layout) -> Address:
    """Where a stem points to."""
    if layout in ("kohya", "kohya-dotted") and (found := _KOHYA.fullmatch(stem)):
        return Address(_PARTS[found["part"]], (found["path"],), flat=found["sep"] == "_")
    path = stem.removeprefix(_PEFT)
    components: tuple[str, ...] = ()
    if found := _COMFY.match(path):
        components, path = _COMFY_PARTS[found["text"]], path[found.end() :]
    if layout == "xlabs":
        path = path.replace(".processor.", ".")
    if layout == "diffusers-old":
        parent, _, leaf = path.replace(".processor.", ".").rpartition(".")
        leaves = _LEAVES.get(leaf, (leaf,))
        paths = tuple(f"{parent}.{name}" if parent else name for name in leaves)
        return Address(components, paths)
    return Address(components, (path,))


def component(where: Address) -> str:
    """The part of the model that an address names, as far as the file alone tells; else empty."""
    if where.components:
        return where.components[0]
    found = _COMPONENT.match(where.paths[0])
    return found[1] if found else ""


def inside(where: Address) -> str:
    """The path inside the component, as far as the file alone tells."""
    path = where.paths[0]
    found = None if where.components else _COMPONENT.match(path)
    return path[found.end() :] if found else path


def unsupported(names: Iterable[str]) -> tuple[str, str] | None:
    """The first name that belongs to a kind of adapter other than plain LoRA, with that kind."""
    for name in names:
        if parse(name) is None:
            for pattern, kind in _KINDS:
                if pattern.search(name):
                    return name, kind
    return None


def foreign(names: Iterable[str]) -> str | None:
    """What a file without any factor seems to hold instead."""
    for name in names:
        for pattern, kind in _FOREIGN:
            if pattern.search(name):
                return kind
    return None

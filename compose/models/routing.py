"""Attention back ends of diffusers, on every model.

Diffusers lets a model choose a back end, but only processors that call its dispatcher obey; those
of UNets and of Stable Diffusion 3 call torch's own function and pass the choice over in silence.
Such layers are routed to the dispatcher while a call of the denoiser runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import attention_backend, dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import pad

from compose.attention.intercept import AttentionCall, intercepted, surrounded
from compose.errors import CaptureError, KernelUnavailableError
from compose.models.backends import BACKENDS, NATIVE, Backend, check_name
from compose.types import AttentionSite

_UNKNOWN = Backend(masks=False)
_OPTIONS = ("dropout_p", "is_causal", "scale", "enable_gqa")


def is_attention(module: nn.Module) -> bool:
    """Whether a module is an attention layer of diffusers."""
    return isinstance(module, Attention | AttentionModuleMixin)


def refusal(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """Why a back end does not run here, from running it once; empty when it does.

    Args:
        name: a key of `BACKENDS`.
        device, dtype: of the queries.
    """
    q = torch.zeros(1, 64, 2, 64, device=device, dtype=dtype)
    try:
        with warnings.catch_warnings(), torch.no_grad(), attention_backend(name):
            warnings.simplefilter("ignore")  # torch says by warnings why a kernel is none for it
            if BACKENDS[name].cuda and device.type != "cuda":
                return "needs a CUDA GPU"
            dispatch_attention_fn(q, q, q)
    except (RuntimeError, ValueError, ImportError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""


def require(name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a back end that does not run here; arguments as of `refusal`.

    Raises:
        RequestError: an unknown name.
        KernelUnavailableError: it does not run here.
    """
    check_name(name)
    if reason := refusal(name, device, dtype):
        raise KernelUnavailableError(
            f"attention back end {name} cannot run here: {reason.rstrip('.')}; expected one that"
            f" can, so use {NATIVE} or one that lora-compose doctor lists as working"
        )


def set_obeying(denoiser: Any, name: str) -> None:
    """Set a back end on the layers of a denoiser that obey diffusers, and on nothing else."""
    with attention_backend(NATIVE):  # what the next line does to the whole process is undone here
        denoiser.set_attention_backend(name)


@contextmanager
def routed(
    layers: Mapping[AttentionSite, nn.Module],
    backend: str | None,
    *,
    watched: Collection[nn.Module] = (),
    biased: Collection[nn.Module] = (),
) -> Iterator[None]:
    """Give layers their back end for one call of the denoiser.

    Args:
        layers: of the denoiser.
        backend: the one that was chosen for layers that do not obey diffusers; None for none.
        watched: layers whose softmax somebody looks into. Those that obey let their queries and
            keys pass through torch's function on the way to their back end.
        biased: layers in which masks will be added.

    Raises:
        CaptureError: the back end of a biased layer takes no masks.
    """
    with ExitStack() as stack:
        for site, module in layers.items():
            own = _own(module)
            name = backend if own is None else own
            if not name or name == NATIVE:
                continue
            if module in biased and not BACKENDS.get(name, _UNKNOWN).masks:
                raise CaptureError(
                    f"attention was to be biased at {site.path}, whose back end {name} takes no"
                    f" masks; expected one that does, so choose {NATIVE} or other layers"
                )
            if own is None or module in watched:
                wish = f"attention back end {name} was to run"
                handler = partial(_dispatch, name)
                stack.enter_context(intercepted(module, handler, name=site.path, wish=wish))
            if own is not None and module in watched:
                stack.enter_context(surrounded(module, partial(_visible, module)))
        yield


def _own(module: Any) -> str | None:
    """The back end of a layer that obeys diffusers, empty for none; None for other layers."""
    if not hasattr(module.processor, "_attention_backend"):
        return None
    backend = module.processor._attention_backend
    return str(getattr(backend, "value", backend) or "")


@contextmanager
def _visible(module: Any) -> Iterator[None]:
    """A processor under torch's own function, for one forward; other layers may share it."""
    processor = module.processor
    before = processor._attention_backend
    processor._attention_backend = NATIVE
    try:
        yield
    finally:
        processor._attention_backend = before


def _dispatch(backend: str, call: AttentionCall) -> Tensor:
    """Compute a call of softmax attention in a back end."""
    query, key, value = (x.transpose(1, 2) for x in (call.query, call.key, call.value))
    options = {n: v for n, v in call.given.items() if n in _OPTIONS}
    mask = _aligned(call.mask) if backend == "xformers" and call.mask is not None else call.mask
    out: Tensor = dispatch_attention_fn(
        query, key, value, attn_mask=mask, backend=backend, **options
    )
    return out.transpose(1, 2)


def _aligned(mask: Tensor) -> Tensor:
    """The same mask with rows that begin at multiples of 8 elements, which xformers asks for."""
    length = mask.shape[-1]
    return pad(mask, (0, -length % 8))[..., :length]

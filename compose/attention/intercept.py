"""Stand between an attention layer and its softmax, whatever processor is installed.

Processors of diffusers end in one call of `torch.nn.functional.scaled_dot_product_attention`, with
queries and keys that are normalised and rotated already. While a layer runs, a function mode of
torch sees that call, and only the calls of that layer: nothing is patched, and no processor is
replaced or copied.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from compose.errors import CaptureError

_ORDER = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


class AttentionCall:
    """One call of softmax attention, as it was made.

    Attributes:
        number: how many calls this layer had made before, in this forward.
        query: [rows, heads, n_q, d].
        key, value: [rows, heads, n_k, d].
        mask: additive or boolean, to be broadcast to [rows, heads, n_q, n_k]; None for none.
    """

    def __init__(self, number: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.number = number
        self._as_made = (args, kwargs)
        self.given: dict[str, Any] = {**dict(zip(_ORDER, args, strict=False)), **kwargs}
        self.query: Tensor = self.given["query"]
        self.key: Tensor = self.given["key"]
        self.value: Tensor = self.given["value"]
        self.mask: Tensor | None = self.given.get("attn_mask")

    @property
    def plain(self) -> bool:
        """Whether it is a softmax over all keys, with a head of keys for each head of queries."""
        return not any(self.given.get(n) for n in ("dropout_p", "is_causal", "enable_gqa"))

    @property
    def scale(self) -> float:
        """What the products of queries and keys are multiplied by."""
        scale: float | None = self.given.get("scale")
        return self.query.shape[-1] ** -0.5 if scale is None else scale

    def attend(self) -> Tensor:
        """The layer's own attention, untouched: [rows, heads, n_q, d]."""
        args, kwargs = self._as_made
        out: Tensor = scaled_dot_product_attention(*args, **kwargs)
        return out

    def attend_under(self, mask: Tensor) -> Tensor:
        """The same attention under another mask."""
        out: Tensor = scaled_dot_product_attention(**{**self.given, "attn_mask": mask})
        return out

    def attend_from(self, query: Tensor) -> Tensor:
        """The same attention with other queries [rows, heads, n_q, d]."""
        out: Tensor = scaled_dot_product_attention(**{**self.given, "query": query})
        return out


Handler = Callable[[AttentionCall], Tensor]
"""Answers for a call of softmax attention: [rows, heads, n_q, d]."""


Forward = Callable[..., Any]
"""What a module does with its inputs."""


class _Seam(TorchFunctionMode):
    """Hands the attention calls of one forward to a handler."""

    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self._handler = handler
        self.calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.calls += 1
        return self._handler(AttentionCall(self.calls - 1, args, kwargs))


@contextmanager
def shadowed(module: nn.Module, change: Callable[[Forward], Forward]) -> Iterator[None]:
    """Another forward in place of a module's, for some time.

    Args:
        module: whose `forward` is shadowed; the module and its class stay as they are.
        change: makes the other forward from the one that is there.
    """
    target: Any = module
    inner, again = target.forward, "forward" in vars(module)
    target.forward = functools.wraps(inner)(change(inner))
    try:
        yield
    finally:
        if again:
            target.forward = inner
        else:
            del target.forward


@contextmanager
def surrounded(
    module: nn.Module, around: Callable[[], AbstractContextManager[object]]
) -> Iterator[None]:
    """Run every forward of a module inside a context of its own.

    Of two contexts around one module, the one that came first is entered last.
    """

    def change(inner: Forward) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            with around():
                return inner(*args, **kwargs)

        return forward

    with shadowed(module, change):
        yield


@contextmanager
def intercepted(module: nn.Module, handler: Handler, *, name: str, wish: str) -> Iterator[None]:
    """Let a handler answer for the softmax attention of a layer.

    The layer's processor stays the very same object. Of two handlers on one layer, the one that
    came first sees a call first.

    Args:
        module: attention layer.
        handler: gets every call. What it calls itself is not handed to it again.
        name: of the layer, for errors.
        wish: what it is for, for errors: "attention was to be captured".

    Raises:
        CaptureError: from the layer's forward, which ended without any such call.
    """

    @contextmanager
    def seam() -> Iterator[None]:
        seen = _Seam(handler)
        with seen:
            yield
        if not seen.calls:
            raise CaptureError(_unseen(name, module, wish))

    with surrounded(module, seam):
        yield


def _unseen(name: str, module: nn.Module, wish: str) -> str:
    processor = getattr(module, "processor", module)
    backend = getattr(processor, "_attention_backend", None)
    running = f", under attention back end {getattr(backend, 'value', backend)}" if backend else ""
    return (
        f"{wish} at {name}, but its {type(processor).__name__}{running} never calls torch's"
        " scaled_dot_product_attention; expected a processor that does, so take this one out"
        " (set_default_attn_processor, disable_xformers_memory_efficient_attention) or choose"
        " other layers"
    )

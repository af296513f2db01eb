"""A generator around the forward of a module, through torch's own hooks."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from torch import nn

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named arguments of a call."""

Talk = Generator[Arguments, Any, Any]
"""Yields the arguments of one forward after another, is sent each output, returns the last word."""


class Around:
    """Lets a generator speak for a module: it gets the arguments of a call, runs the module's
    forward as often as it likes, and its return value is what the caller sees.

    Torch's hooks act around whatever `forward` the module has when it is called. Offloading
    (accelerate) and diffusers' own hooks put another `forward` in and take it out again, at the end
    of every pipeline call even, so one of ours would be lost there.

    Args:
        module: any module; nothing but two hooks is added to it.
        talk: starts the generator for one call.
    """

    def __init__(self, module: nn.Module, talk: Callable[..., Talk]) -> None:
        self._start = talk
        self._running: list[Talk] = []
        self._handles = (
            module.register_forward_pre_hook(self._before, with_kwargs=True),
            module.register_forward_hook(self._after),
        )

    def close(self) -> None:
        """Take the hooks out."""
        self._drop()
        for handle in self._handles:
            handle.remove()

    def _drop(self) -> None:
        """End a call whose forward raised; what its generator holds is let go."""
        while self._running:
            self._running.pop().close()

    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments:
        del module
        self._drop()
        talk = self._start(*args, **kwargs)
        first = next(talk)
        self._running.append(talk)
        return first

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        talk = self._running.pop()
        try:
            while True:
                args, kwargs = talk.send(output)
                output = module.forward(*args, **kwargs)
        except StopIteration as end:
            return end.value


def surrounded(module: nn.Module) -> bool:
    """Whether an `Around` is at work on a module."""
    hooks = module._forward_pre_hooks.values()
    return any(isinstance(getattr(hook, "__self__", None), Around) for hook in hooks)

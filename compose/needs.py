"""Whether a run has what a method needs beside gates, and the method a use for what the run has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compose.adapters.triggers import check_called
from compose.attention.layers import cross_layers
from compose.errors import RequestError
from compose.method import CompositionMethod

if TYPE_CHECKING:
    from compose.run import Run


def check_needs(method: CompositionMethod, run: Run) -> None:
    """Refuse a run whose request does not say where adapters belong, or says so in vain.

    Raises:
        RequestError: no region, or one of no use; an adapter that the prompt does not call; a model
            without cross-attention.
    """
    if "regions" in method.needs:
        if not any(run.placed):
            raise RequestError(
                f"method {method.name} needs to know where in the picture adapters belong, and no"
                " adapter has a region; expected one for some, so add --region NAME=x0,y0,x1,y1 or"
                " --mask NAME=FILE.png"
            )
    elif any(run.placed):
        names = [a.name for a, placed in zip(run.adapters, run.placed, strict=True) if placed]
        raise RequestError(
            f"adapter {names[0]} has a region, but method {method.name} works on the whole picture;"
            " expected a method that places adapters, such as regional, or no region"
        )
    if "spans" in method.needs:
        for prompt in run.prompts:
            check_called(run.adapters, prompt)
    if "streams" in method.needs and (reason := _no_streams(run)):
        raise RequestError(
            f"method {method.name} gives regions texts of their own in cross-attention, and"
            f" {run.family.name} models {reason}; expected a model such as Stable Diffusion 1.x or"
            " XL, or another method, such as regional"
        )


def _no_streams(run: Run) -> str:
    """Why the model's cross-attention cannot listen to further texts; empty where it can."""
    layers = run.family.attention_layers()
    cross: list[Any] = [module for site, module in layers.items() if cross_layers()(site)]
    if not cross:
        return "have none: there image and text are one sequence"
    width = run.text([1.0] * len(run.adapters)).cond.embeds.shape[-1]
    if any(module.to_k.in_features != width for module in cross):
        return "project the text before it gets there"
    return ""

"""Controls for the fields of methods, made from what the methods say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from compose.fusion import methods
from compose.method import Param, Value
from compose.product import SIGN


def control(param: Param) -> Any:
    """The component that a field is set with: a slider, a number, a checkbox or a choice."""
    label = param.name.replace("_", " ")
    shared = {"label": label, "info": param.help, "value": param.default}
    if param.type == "bool":
        return gr.Checkbox(**shared)
    if param.type == "str":
        return gr.Dropdown(choices=list(param.choices), **shared)
    whole = param.type == "int"
    if param.low is None or param.high is None:
        ends = {"minimum": param.low, "maximum": param.high}
        return gr.Number(precision=0 if whole else None, **ends, **shared)
    step = 1 if whole else min((param.high - param.low) / 100, 0.5)  # 1 would be whole numbers
    return gr.Slider(param.low, param.high, step=step, **shared)


@dataclass(frozen=True)
class MethodControls:
    """A group of controls for every method; those of the chosen one, or of the parts of a product,
    are seen.

    Attributes:
        names: "method.field" of each of `components`.
        groups: the group of each method, in the order of `methods()`.
    """

    names: tuple[str, ...]
    components: tuple[Any, ...]
    groups: tuple[Any, ...]

    @classmethod
    def draw(cls, chosen: str) -> MethodControls:
        """Draw them at this place of the page; `chosen` is the method at the start."""
        names: list[str] = []
        components: list[Any] = []
        groups: list[Any] = []
        for name, kind in methods().items():
            with gr.Group(visible=name in chosen.split(SIGN), elem_id=f"fields-{name}") as group:
                gr.Markdown(f"**{kind.title}** · {_summary(kind)}", elem_classes="method-note")
                for param in kind.params():
                    names.append(f"{name}.{param.name}")
                    components.append(control(param))
            groups.append(group)
        return cls(tuple(names), tuple(components), tuple(groups))

    def seen(self, chosen: str) -> list[Any]:
        """Which groups are seen with a method, or a product, as updates of `groups`."""
        parts = chosen.split(SIGN)
        return [gr.update(visible=name in parts) for name in methods()]

    def values(self, fields: Mapping[str, Value]) -> list[Any]:
        """Values of `components`: of some fields, and the defaults of the others."""
        defaults = {f"{n}.{p.name}": p.default for n, k in methods().items() for p in k.params()}
        return [{**defaults, **fields}[name] for name in self.names]

    def read(self, values: Sequence[Any]) -> dict[str, Value]:
        """Fields by "method.field" from the values of `components`."""
        return dict(zip(self.names, values, strict=True))


def _summary(kind: type[Any]) -> str:
    """First sentence of a method's own words, and where it is from."""
    first = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    return f"{first} [source]({kind.source})"

"""Controls are what methods say of their fields."""

from __future__ import annotations

import gc
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from compose.fusion import methods
from tests.app.ui.conftest import needs_gradio

if TYPE_CHECKING:
    from compose_app.ui.controls import MethodControls


@pytest.fixture(scope="module")
def gradio() -> Any:
    needs_gradio()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gradio's own; it leaves event loops and sockets unclosed
        import gradio as found

        gc.collect()
    return found


@pytest.fixture
def controls(gradio: Any) -> MethodControls:
    from compose_app.ui.controls import MethodControls

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # as above, for every component
        with gradio.Blocks(analytics_enabled=False):
            drawn = MethodControls.draw("tara*regional")
        gc.collect()
    return drawn


def test_every_field_of_every_method_has_its_control(controls: MethodControls, gradio: Any) -> None:
    params = {f"{n}.{p.name}": p for n, kind in methods().items() for p in kind.params()}
    assert controls.names == tuple(params)
    for component, param in zip(controls.components, params.values(), strict=True):
        assert component.value == param.default
        assert component.info == param.help
        if param.type == "bool":
            assert isinstance(component, gradio.Checkbox)
        elif param.type == "str":
            assert [value for _, value in component.choices] == list(param.choices)
        else:
            assert (component.minimum, component.maximum) == (param.low, param.high)
            whole = component.precision == 0 or getattr(component, "step", None) == 1
            assert whole == (param.type == "int")


def test_the_controls_of_the_chosen_method_are_seen(controls: MethodControls) -> None:
    seen = [name for name, group in zip(methods(), controls.groups, strict=True) if group.visible]
    assert seen == ["regional", "tara"]
    updates = dict(zip(methods(), controls.seen("switch"), strict=True))
    assert [name for name, update in updates.items() if update["visible"]] == ["switch"]


def test_values_come_back_as_they_were_put(controls: MethodControls) -> None:
    fields = {"switch.every": 9, "regional.overlap": "sum"}
    read = controls.read(controls.values(fields))
    assert {name: read[name] for name in fields} == fields
    assert set(read) == set(controls.names)

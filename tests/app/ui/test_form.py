"""What the page holds comes to the very request that the command line makes, and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose.adapters.library import AdapterLibrary
from compose.errors import AdapterNotFoundError, ComposeError, RequestError
from compose.fusion import method, methods
from compose.regions import Box, Mask
from compose.request import AdapterUse, Request
from compose.types import Size
from compose_app.order import one_column, read_request
from compose_app.ui.axes import Axis, read_axis
from compose_app.ui.confined import NamedAdapters
from compose_app.ui.form import PAINTED, Form, Row, method_choices

MASK = Mask(2, 2, bytes([0, 255, 128, 0]))
ONE = Row("tiny_one")


@pytest.fixture
def names(library: Path) -> NamedAdapters:
    return NamedAdapters([library])


def test_a_form_asks_for_what_the_flags_ask_for(
    names: NamedAdapters, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_COMPOSE_ADAPTERS", str(library))
    prompt = "mochi cat <lora:tiny_three:0.4>, sea"
    form = Form(
        prompt,
        negative="dog",
        rows=(Row("tiny_one", 0.8, 0.3, "0,0,0.5,1"), Row("tiny_two", words="sea")),
        method="tara*regional",
        fields={"regional.feather": 0.1, "tara.words": "class", "switch.every": 7},
        width=48,
        height=32,
        steps=3,
        guidance=2.5,
        scheduler="euler",
        seed=5,
        count=2,
    )
    flags = read_request(
        prompt,
        negative="dog",
        loras=("tiny_one:0.8:0.3", "tiny_two"),
        regions=("tiny_one=0,0,0.5,1",),
        binds=("tiny_two=sea",),
        size="48x32",
        steps=3,
        guidance=2.5,
        scheduler="euler",
        seeds=(5, 6),
    )
    fields = {"regional.feather": "0.1", "tara.words": "class"}
    (column,) = one_column(flags, "tara*regional", fields)
    assert form.request(names) == column.request


USES = st.lists(
    st.builds(
        AdapterUse,
        st.sampled_from(["tiny_one", "tiny_two", "tiny_three"]),
        st.floats(-2, 2),
        st.none() | st.floats(-2, 2),
        st.none() | st.just(Box(0, 0.25, 0.5, 1)) | st.just(MASK),
        st.none() | st.just("mochi"),
    ),
    unique_by=lambda use: use.name,
    max_size=3,
)


@given(
    uses=USES,
    name=st.sampled_from([name for _, name in method_choices()]),
    size=st.none() | st.just(Size(48, 32)),
    guidance=st.none() | st.floats(0, 20),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_request_comes_back_from_the_form_that_shows_it(
    library: Path,
    uses: list[AdapterUse],
    name: str,
    size: Size | None,
    guidance: float | None,
    seed: int,
) -> None:
    request = Request(
        "mochi cat",
        adapters=tuple(uses),
        method=method(name)(),
        size=size,
        guidance=guidance,
        seeds=(seed,),
    )
    recalled = Request.from_json(request.to_json())
    assert Form.of(recalled).request(NamedAdapters([library])) == request


@pytest.mark.parametrize("name", methods())
def test_every_field_of_every_method_is_carried_both_ways(name: str, names: NamedAdapters) -> None:
    for param in methods()[name].params():
        ends = [param.low, param.high, not param.default if param.type == "bool" else None]
        other = next((e for e in (*ends, *param.choices) if e not in (None, param.default)), None)
        if other is None:
            continue
        form = Form("cat", method=name, fields={f"{name}.{param.name}": other}, seed=1)
        request = form.request(names)
        assert request.method.values()[param.name] == other
        assert Form.of(request).fields[f"{name}.{param.name}"] == other


def test_a_painted_region_is_the_mask(names: NamedAdapters) -> None:
    form = Form("cat", rows=(Row("tiny_one", region=PAINTED),), masks={"tiny_one": MASK})
    assert form.request(names).adapters[0].region == MASK
    with pytest.raises(RequestError, match="nothing was"):
        replace(form, masks={}).request(names)


@pytest.mark.parametrize(
    "form",
    [
        Form("cat <lora:tiny_one:x>"),
        Form("cat <lora:tiny_one>", rows=(ONE,)),
        Form("cat", negative="<lora:tiny_one:1>"),
        Form("cat", rows=(Row("tiny_one", region="0,0,2,1"),)),
        Form("cat", rows=(Row("tiny_one", words="dog"),)),
        Form("cat", method="nothing"),
        Form("cat", method="switch", fields={"switch.every": 0}),
        Form("cat", count=17),
        Form("cat", seed=-1),
        Form("cat", width=8192, height=32),
        Form("cat", steps=0),
    ],
)
def test_what_makes_no_sense_is_refused(form: Form, names: NamedAdapters) -> None:
    with pytest.raises(ComposeError):
        form.request(names)


def test_a_fresh_seed_is_one_that_a_browser_can_hold(names: NamedAdapters) -> None:
    seeds = {Form("cat").request(names).seeds[0] for _ in range(4)}
    assert len(seeds) > 1 and all(0 <= seed < 2**53 for seed in seeds)


@pytest.mark.parametrize("prompt", ["cat <lora:{}:1>", "cat"])
def test_a_path_leads_nowhere(library: Path, tmp_path: Path, prompt: str) -> None:
    path = str(library / "tiny_one.safetensors")
    assert AdapterLibrary([]).find(path).name == "tiny_one"
    rows = () if "lora" in prompt else (Row(path),)
    with pytest.raises(AdapterNotFoundError):
        Form(prompt.format(path), rows=rows).request(NamedAdapters([tmp_path]))


def test_an_axis_sets_one_thing(names: NamedAdapters) -> None:
    form = Form("cat", rows=(ONE, Row("tiny_two")), seed=1)
    weights = read_axis("weight of tiny_two", "0.5, 1")
    assert weights == Axis("weight of tiny_two", (0.5, 1.0))
    changed = weights.put(form, 0.5).request(names)
    assert [use.weight for use in changed.adapters] == [1.0, 0.5]
    every = read_axis("switch.every", "2,3")
    taken = replace(every.put(form, every.values[1]), method="switch").request(names)
    assert taken.method.values()["every"] == 3
    assert read_axis("seed", "3..6, 9").values == (3, 4, 5, 6, 9)
    assert read_axis("method", "merge, switch").put(form, "switch").method == "switch"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("colour", "1"),
        ("seed", ""),
        ("seed", "one"),
        ("steps", "1.5"),
        ("seed", "1..99"),
        ("switch.size", "1"),
        ("switch.every", "0"),
        ("nothing.every", "1"),
    ],
)
def test_a_senseless_axis_is_refused(name: str, values: str) -> None:
    with pytest.raises(RequestError):
        read_axis(name, values)


def test_an_axis_for_an_adapter_that_is_not_there_is_refused() -> None:
    with pytest.raises(RequestError, match="tiny_one"):
        read_axis("weight of tiny_onr", "1").put(Form("cat", rows=(ONE,)), 1.0)

"""Checkpoints: what was saved comes back, in its memory layout, from a file that runs no code."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compose.train.common import adamw
from compose.train.state import load_state, save_state


def test_nested_values_come_back(tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    state = {
        "step": 7, "spent": 1.5, "done": False, "name": "a", "none": None,
        "pair": (0.9, torch.arange(3)), 4: {"x": torch.tensor(2.0), "bytes": torch.ones(2).byte()},
    }  # fmt: skip
    save_state(state, path)
    back = load_state(path)
    plain = ("step", "spent", "done", "name", "none")
    assert {k: back[k] for k in plain} == {k: state[k] for k in plain}
    assert back["pair"][0] == 0.9 and torch.equal(back["pair"][1], torch.arange(3))
    assert back[4]["x"].shape == () and back[4]["bytes"].dtype == torch.uint8
    assert len(load_file(path)) == 3  # any reader of safetensors can open it
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_checkpoint(tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    save_state({"step": 1}, path)
    with pytest.raises(TypeError):
        save_state({"step": object()}, path)
    assert load_state(path) == {"step": 1} and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size", [1, 3])  # 1: strides that a memory format does not determine
def test_an_optimiser_goes_on_as_if_it_had_not_stopped(tmp_path, size) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(4, 3, 8, 8)

    def made() -> tuple[nn.Conv2d, torch.optim.AdamW]:
        torch.manual_seed(1)
        layer = nn.Conv2d(3, 5, size).to(memory_format=torch.channels_last)
        return layer, adamw(layer.parameters(), 0.01, torch.device("cpu"))

    def train(layer: nn.Conv2d, optimiser: torch.optim.AdamW) -> None:
        for _ in range(3):
            optimiser.zero_grad()
            layer(inputs).square().mean().backward()
            optimiser.step()

    whole, optimiser = made()
    train(whole, optimiser)
    path = tmp_path / "state.safetensors"
    save_state({"layer": whole.state_dict(), "optimiser": optimiser.state_dict()}, path)
    train(whole, optimiser)
    resumed, other = made()
    state = load_state(path)
    resumed.load_state_dict(state["layer"])
    other.load_state_dict(state["optimiser"])
    moment = other.state[resumed.weight]["exp_avg"]
    assert moment.stride() == resumed.weight.stride() != torch.empty(moment.shape).stride()
    train(resumed, other)
    assert torch.equal(resumed.weight, whole.weight) and torch.equal(resumed.bias, whole.bias)

"""The whole training path of the world, tiny, and its pieces by themselves."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compose.errors import ModelError
from compose.train.__main__ import main
from compose.train.base import BaseOptions, Training, train_base
from compose.train.common import Clock, Ema, RunDir, cosine, load_tensors
from compose.train.data import SHARD, as_float, draw_lots, make_data, shard_lots
from compose.train.drawing import draw, draw_ahead, lot_size
from compose.train.export import build_scheduler, export
from compose.train.latents import load_latents
from compose.train.parts import give_rare_tokens, noise_levels, spread_timesteps
from compose.train.ranks import Ranks, launch
from compose.train.state import load_state
from compose.train.tokenizer import Lookup, load_tokenizer
from compose.train.vae import VaeOptions, random_crops, train_vae
from compose.train.vae_parts import build_vae, detail_weight, normalise_latents, reconstruct
from compose.world.captions import words
from compose.world.renderer import Table, pack, render
from compose.world.sampling import sample_scene
from compose.world.vocabulary import RARE_TOKENS

CPU = torch.device("cpu")


def base_options(run: Path, minutes: float, steps: int) -> BaseOptions:
    return BaseOptions(
        run, minutes, math.inf, batch=4, width=(32, 32, 32), text_width=32, compile=False,
        max_steps=steps,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with data, a finished VAE and a UNet paused after two steps."""
    folder: Path = tmp_path_factory.mktemp("run")
    make_data(RunDir(folder), scenes=6, all_scenes=4, captions=2, seed=0, workers=0)
    options = VaeOptions(
        folder, 0.0, math.inf, batch=2, crop=32, channels=(16, 16, 16), judged=1, max_steps=1
    )
    launch(train_vae, options, 1, "cpu")
    launch(train_base, base_options(folder, 60.0, 2), 1, "cpu")
    return folder


def log(run: Path, stage: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == stage]


def test_data_is_the_same_for_the_same_seed_and_made_once(run: Path, tmp_path: Path) -> None:
    again = RunDir(tmp_path)
    assert make_data(again, scenes=6, all_scenes=4, captions=2, seed=0, workers=0)
    first, second = (
        load_tensors(folder / "data" / "base_0000.safetensors") for folder in (run, tmp_path)
    )
    assert first["tokens"].shape == (6, 2, 40) and set(first) == {
        "rows", "counts", "styles", "tokens",
    }  # fmt: skip
    for name, values in first.items():
        assert torch.equal(values, second[name])
    assert make_data(again, scenes=6, all_scenes=4, captions=2, seed=0, workers=0)
    assert [line["shards"] for line in log(tmp_path, "data")] == [2, 0]


def test_shards_are_dealt_in_lots_that_cover_all(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for index in range(11):
        (run.stage("data") / f"base_{index:04d}.safetensors").touch()
    for size in (1, 2, 3):
        ranks = [Ranks(rank, size, CPU) for rank in range(size)]
        lots = [lot for each in ranks for lot in shard_lots(run, "base", each)]
        assert sorted(path.name[5:9] for lot in lots for path in lot) == [
            f"{index:04d}" for index in range(11)
        ]
        assert max(map(len, lots)) <= lot_size(CPU) // SHARD
    few = shard_lots(run, "base", Ranks(0, 2, CPU), limit=2 * SHARD + 1)
    assert sum(map(len, few)) == 3
    with pytest.raises(ModelError, match="11 shards for 12 processes"):
        shard_lots(run, "base", Ranks(0, 12, CPU))


def test_threads_draw_what_one_draws() -> None:
    rng = random.Random(0)
    tables = [pack([sample_scene(rng) for _ in range(count)]) for count in (2, 1, 3, 2)]
    expected = [draw(table, CPU) for table in tables]
    for threads in (0, 2):
        drawn = list(draw_ahead(tables, CPU, draw, threads))
        assert all(torch.equal(*pair) for pair in zip(drawn, expected, strict=True))
    assert torch.equal(torch.cat(expected), draw(Table.join(tables), CPU))


def test_latents_are_those_of_the_pictures_and_are_read_again(run: Path) -> None:
    from diffusers import AutoencoderKL

    ranks, weights = Ranks(0, 1, CPU), run / "vae" / "weights"
    (path,) = (run / "latents").rglob("*.safetensors")
    path.unlink()
    made = load_latents(RunDir(run), weights, ranks)
    again = load_latents(RunDir(run), weights, ranks)
    (pictures,) = draw_lots(shard_lots(RunDir(run), "base", ranks), CPU, worn=True)
    vae = AutoencoderKL.from_pretrained(weights).eval()
    with torch.no_grad():
        posterior = vae.encode(as_float(pictures.images)).latent_dist
    torch.testing.assert_close(made.mean.float(), posterior.mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(made.std.float(), posterior.std, rtol=1e-3, atol=1e-3)
    assert torch.equal(made.tokens, pictures.tokens)
    assert torch.equal(made.worn, pictures.worn) and made.worn.any()
    for name in ("mean", "std", "worn", "tokens"):
        assert torch.equal(getattr(made, name), getattr(again, name))


def test_a_stage_goes_on_where_it_stopped(run: Path) -> None:
    state = run / "unet" / "state.safetensors"
    before = load_state(state)
    launch(train_base, base_options(run, 60.0, 1), 1, "cpu")
    after = load_state(state)
    assert (before["step"], after["step"], after["samples"]) == (2, 3, 12)
    assert after["spent"] > before["spent"]
    steps = [value["step"] for value in after["optimiser"]["state"].values()]
    assert {int(step) for step in steps} == {3}
    assert not RunDir(run).done("unet", 60.0)


def test_export_is_a_pipeline_that_draws(run: Path, tmp_path: Path) -> None:
    from diffusers import (
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        StableDiffusionPipeline,
    )

    export(run, tmp_path / "model")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "model", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    schedulers = [pipe.scheduler]
    for other in (EulerDiscreteScheduler, DPMSolverMultistepScheduler):
        schedulers.append(other.from_config(pipe.scheduler.config))
    for scheduler in schedulers:
        assert scheduler.config.prediction_type == "v_prediction"
        pipe.scheduler = scheduler
        image = pipe("a red cat", num_inference_steps=2, output_type="pt").images
        assert scheduler.timesteps[0] == 999
        assert image.shape == (1, 3, 128, 128) and bool(image.isfinite().all())
    assert str(run) not in (tmp_path / "model" / "unet" / "config.json").read_text()
    stored = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert stored["safety_checker"] == [None, None] and stored["requires_safety_checker"] is False
    half = StableDiffusionPipeline.from_pretrained(tmp_path / "model", dtype=torch.float16)
    state = load_state(run / "unet" / "state.safetensors")
    averaged = state["ema"]["values"]["unet.conv_in.weight"]
    assert torch.equal(half.unet.conv_in.weight, averaged.half())


def test_exported_rare_tokens_are_long_and_distinct(run: Path) -> None:
    from transformers import CLIPTextModel

    text = CLIPTextModel.from_pretrained(run / "unet" / "weights" / "text_encoder")
    lookup = Lookup.of(load_tokenizer(run / "tokenizer"))
    table = text.get_input_embeddings().weight.detach()
    rare = table[[lookup.ids[token] for token in RARE_TOKENS]]
    length = table[[lookup.ids[word] for word in words()]].norm(dim=1).mean()
    torch.testing.assert_close(rare.norm(dim=1), length.expand(len(rare)))


def test_alike_rare_tokens_are_refused() -> None:
    with pytest.raises(ModelError, match="are alike"):
        give_rare_tokens(torch.randn(50, 2), list(range(40)), [45], seed=0)


def test_the_loss_is_the_error_of_the_velocity(run: Path) -> None:
    """With the true velocity in place of the UNet's the loss vanishes; diffusers is the oracle."""
    tokenizer = load_tokenizer(run / "tokenizer")
    training = Training(Ranks(0, 1, CPU), base_options(run, 60.0, 1), tokenizer)
    scheduler = build_scheduler()
    latents = torch.randn(4, 4, 32, 32)

    def perfect(
        noisy: torch.Tensor, steps: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor]:
        signal = scheduler.alphas_cumprod[steps][:, None, None, None]
        noise = (noisy - signal.sqrt() * latents) / (1 - signal).sqrt()
        return (scheduler.get_velocity(latents, noise, steps),)

    training.unet = perfect
    tokens = torch.zeros(4, 40, dtype=torch.long)
    weight = torch.ones(4, 1, 32, 32)
    assert float(training.loss(latents, tokens, weight)) < 1e-6
    training.unet = lambda *given, **_: (perfect(*given)[0] + 0.5,)
    assert float(training.loss(latents, tokens, weight)) == pytest.approx(0.25, rel=1e-3)
    weight[:, :, :16] = 3  # in half the picture
    assert float(training.loss(latents, tokens, weight)) == pytest.approx(0.5, rel=1e-3)


def test_noise_levels_are_the_schedulers() -> None:
    signal, noise = noise_levels("cpu")
    expected = build_scheduler().alphas_cumprod
    torch.testing.assert_close(signal.square(), expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(signal.square() + noise.square(), torch.ones(1000))


def test_timesteps_cover_every_part_of_the_range() -> None:
    steps = spread_timesteps(50, torch.Generator().manual_seed(0), CPU)
    assert sorted((steps // 20).tolist()) == list(range(50))
    assert steps.tolist() != sorted(steps.tolist())


def test_normalised_latents_leave_the_pictures_as_they_are() -> None:
    torch.manual_seed(0)
    vae = build_vae((16, 16, 16)).eval()
    rng = random.Random(0)
    images = render([sample_scene(rng) for _ in range(3)]).mul(255).byte()
    before = reconstruct(vae, images)
    deviation = vae.encode(as_float(images)).latent_dist.std
    _, spread = normalise_latents(vae, images)
    torch.testing.assert_close(reconstruct(vae, images), before, rtol=1e-3, atol=1e-4)
    posterior = vae.encode(as_float(images)).latent_dist
    torch.testing.assert_close(posterior.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(posterior.mean.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    expected = deviation / spread[:, None, None]
    torch.testing.assert_close(posterior.std, expected, rtol=1e-3, atol=1e-5)


def test_detail_weighs_more_than_flat_ground() -> None:
    target = torch.zeros(1, 3, 32, 32)
    torch.testing.assert_close(detail_weight(target), torch.ones(1, 1, 32, 32))
    target[..., 15:17, 15:17] = 1.0  # a pupil
    weight = detail_weight(target)
    assert float(weight.mean()) == pytest.approx(1.0, abs=1e-5)
    assert float(weight[0, 0, 15, 15]) > 3 * float(weight[0, 0, 2, 2])


def test_crops_are_windows_of_the_pictures() -> None:
    place = torch.arange(128)
    grid = torch.stack(
        [place[:, None].expand(128, 128), place.expand(128, 128), torch.zeros(128, 128)]
    )
    crops = random_crops(grid.byte()[None], 20, 16, torch.Generator().manual_seed(0))
    rows, columns = ((crops[:, channel] + 1) * 127.5 for channel in (0, 1))
    torch.testing.assert_close(
        rows[:, 1:] - rows[:, :-1], torch.ones(20, 15, 16), atol=1e-3, rtol=0
    )
    steps = columns[..., 1:] - columns[..., :-1]
    torch.testing.assert_close(steps, torch.ones(20, 16, 15), atol=1e-3, rtol=0)
    assert len({float(value) for value in rows[:, 0, 0]}) > 5


def test_ema_follows_the_ramped_formula() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema, expected = Ema(model, 0.5), 0.0
    for step in range(1, 12):
        nn.init.constant_(model.weight, float(step))
        ema.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    ema.copy_to(model)
    assert float(model.weight.detach()) == pytest.approx(expected, rel=1e-5)


def test_schedule_and_clock() -> None:
    assert cosine(0.0, 0.1, 0.03) == pytest.approx(0.1)
    assert cosine(0.5, 5.0, 0.0) == pytest.approx(0.5)
    assert cosine(1.0, 5.0, 0.03) == pytest.approx(0.03)
    clock = Clock(budget=100.0, spent=50.0)
    clock.start()
    assert 0.5 <= clock.progress < 0.51 and not clock.late
    assert Clock(budget=1.0, deadline=0.0).late


def test_pieces_go_together_again(tmp_path: Path) -> None:
    source = tmp_path / "source" / "deep"
    source.mkdir(parents=True)
    (source / "weights").write_bytes(random.Random(0).randbytes(16 * 2**20))
    assert main(["pack", str(source.parent), str(tmp_path / "pieces")]) == 0
    pieces = sorted((tmp_path / "pieces").iterdir())
    assert len(pieces) == 2 and all(piece.stat().st_size <= 15 * 2**20 for piece in pieces)
    assert main(["unpack", str(tmp_path / "pieces"), str(tmp_path / "back")]) == 0
    assert (tmp_path / "back/deep/weights").read_bytes() == (source / "weights").read_bytes()


def test_a_finished_stage_is_skipped_and_an_unknown_one_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["world", "--out", str(run), "--gpus", "0", "--minutes-vae", "0"]
    state = (run / "vae" / "state.safetensors").read_bytes()
    assert main([*ask, "--stages", "vae"]) == 0
    assert (run / "vae" / "state.safetensors").read_bytes() == state
    assert log(run, "vae")[-1]["skipped"] == "finished before"
    assert main([*ask, "--stages", "vea"]) == 2
    assert "unknown stage 'vea'" in capsys.readouterr().err

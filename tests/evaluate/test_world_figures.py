"""Intervals, sheets, demands of concepts, pictures of the stock pipeline."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from compose.errors import AdapterNotFoundError, ModelError, RequestError
from compose.evaluate import world
from compose.evaluate.bench import Bench
from compose.evaluate.generate import (
    Sampling,
    find_adapter,
    generate,
    load_adapters,
    load_pipeline,
    use,
)
from compose.evaluate.judge import Judged, concept_demand, describe, fixed, judge
from compose.evaluate.sheets import Cell, contact_sheet
from compose.evaluate.statistics import Figure, Report, wilson
from compose.evaluate.world_base import measure_base, measure_recognizer, measure_speed
from compose.evaluate.world_concepts import _scene_of, measure_merge
from compose.world.concepts import Concept, concept_scenes, shipped
from compose.world.reading import Reading, Seen
from compose.world.recognizer import Recognizer
from compose.world.recognizer_file import save_recognizer
from compose.world.score import Expectation, Expected, score

CPU = torch.device("cpu")
MOCHI = Concept(
    "mochi",
    "mochi",
    "character",
    "cat",
    thing={"species": "cat", "colour": "teal", "pattern": "split", "second": "#fff8e0"},
)
WIZZO = Concept(
    "wizzo", "wizzo", "clothing", "hat", accessory={"kind": "wizard", "colour": "purple"}
)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [  # Newcombe 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(right, total, low, high):
    assert wilson(right, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_the_edges():
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(50, 50)
    assert high == 1.0 and low == pytest.approx(1 - wilson(0, 50)[1])
    with pytest.raises(RequestError, match="5 of 4 cannot be a share"):
        wilson(5, 4)


def test_report_on_disk_and_in_markdown(tmp_path):
    figure = Figure.of("two things / all right", [True] * 81 + [False] * 182)
    report = Report("base", (figure,), {"seconds": 1.25}, {"steps": 20})
    assert figure.row == "| two things / all right | 0.308 | 0.255 to 0.366 | 263 |"
    assert (
        report.markdown().splitlines()[2] == figure.row
        and "| seconds | 1.25 |" in report.markdown()
    )
    report.write(tmp_path / "deep")
    content = json.loads((tmp_path / "deep" / "base.json").read_text())
    assert content["figures"][0]["interval"] == pytest.approx([0.2553, 0.3662], abs=5e-5)
    assert content["values"] == {"seconds": 1.25} and content["settings"] == {"steps": 20}
    assert (tmp_path / "deep" / "base.md").read_text() == report.markdown()


def test_sheet_holds_every_pixel_and_frames_the_wrong():
    images = torch.rand(3, 3, 16, 16)
    cells = [Cell(image, "red cat", "" if i != 1 else "blue") for i, image in enumerate(images)]
    sheet = contact_sheet(cells, columns=2)
    assert sheet.width == 2 * 24
    for i, (x, y) in enumerate([(0, 0), (24, 0), (0, sheet.height // 2)]):
        assert sheet.getpixel((x, y)) == ((220, 30, 30) if i == 1 else (225, 225, 225))
        wanted = tuple(int(v) for v in (images[i, :, 5, 7] * 255).round())
        assert sheet.getpixel((x + 3 + 7, y + 3 + 5)) == wanted


def test_a_character_is_asked_in_words_and_codes_stay_open():
    assert fixed(MOCHI) == Expected("cat", "teal", "split")
    least, whole = concept_demand(MOCHI, concept_scenes(MOCHI, 1, 0)[0])
    assert least.things == (Expected("cat", "teal"),) and whole.things == (
        Expected("cat", "teal", "split"),
    )


def test_clothing_is_asked_on_its_wearer():
    scene = concept_scenes(WIZZO, 1, 0)[0]
    least, whole = concept_demand(WIZZO, scene)
    assert least.things == (Expected(scene.things[0].species, accessory="wizard"),)
    assert (
        whole.things[0].accessory_colour == "purple"
        and whole.things[0].colour == scene.things[0].colour
    )
    assert least.background is None and least.style is None


def test_every_shipped_concept_can_be_met_and_missed():
    for concept in shipped():
        scene = concept_scenes(concept, 1, 1)[0]
        for demand in concept_demand(concept, scene):
            things = tuple(
                Seen(
                    t.species,
                    t.colour,
                    t.pattern,
                    t.second,
                    t.accessory,
                    t.accessory_colour,
                    t.x,
                    t.y,
                    t.size,
                )
                for t in scene.things
            )
            met = score(Reading(things, scene.background, scene.style), demand)
            assert all(t.identity for t in met.things) and met.background and met.style, (
                concept.name
            )
            bare = score(Reading((), "meadow", "plain"), demand)
            assert not (all(t.identity for t in bare.things) and bare.background and bare.style), (
                concept.name
            )


def test_pairs_stand_in_both_orders():
    import random

    pair = [concept for concept in shipped() if concept.category == "character"][:2]
    one, two = (_scene_of(pair, swapped, random.Random(0)) for swapped in (False, True))
    assert (
        [t.species for t in one.things]
        == [c.thing["species"] for c in pair]
        == [t.species for t in two.things]
    )
    assert one.things[0].x < one.things[1].x and two.things[0].x > two.things[1].x


def test_judged_pictures_count_and_tell():
    reading = Reading(
        (Seen("cat", "red", "striped", None, "hat", "blue", 0.5, 0.6, 0.5),), "moon", "plain"
    )
    asked = [Expectation((Expected("cat"),)), Expectation((Expected("dog"),))]
    both = [reading, reading]
    judged = Judged(
        torch.rand(2, 3, 16, 16), ["a cat", "a dog"], both, [score(reading, a) for a in asked]
    )
    assert judged.figure("x", lambda s: s.all_right) == Figure("x", 1, 2)
    assert judged.rescored(asked[::-1]).scores[0] == judged.scores[1]
    assert [cell.wrong for cell in judged.cells(9, lambda s: s.all_right)] == [
        "",
        "red striped cat hat, moon",
    ]
    assert describe(Reading((), "snow", "plain")) == "nothing, snow"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Stable Diffusion pipeline with the world's sizes, and two adapters; random weights."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    from compose.train.tokenizer import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=40, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=32, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 4), norm_num_groups=2, layers_per_block=1,
    )  # fmt: skip
    scheduler = DDIMScheduler(prediction_type="v_prediction", steps_offset=1, clip_sample=False)
    pipe = StableDiffusionPipeline(
        vae,
        CLIPTextModel(text),
        tokenizer,
        unet,
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )
    path = tmp_path_factory.mktemp("world")
    pipe.save_pretrained(path / "weights")
    (path / "adapters").mkdir()
    keys = [name for name, _ in unet.named_modules() if name.endswith("to_k")]
    for concept in shipped():
        if concept.category == "character":
            inner = {
                f"unet.{k}.lora_A.weight": torch.randn(2, unet.get_submodule(k).in_features)
                for k in keys
            }
            outer = {
                f"unet.{k}.lora_B.weight": torch.randn(unet.get_submodule(k).out_features, 2)
                for k in keys
            }
            save_file(inner | outer, path / "adapters" / f"{concept.name}.safetensors")
    save_recognizer(Recognizer(), path / "recognizer")
    return path


def test_a_batch_gives_the_stock_pictures_of_each_prompt(folder):
    pipe = load_pipeline(folder / "weights", CPU)
    prompts = ["a red cat", "a blue dog on the beach", "a car"]
    images = generate(pipe, prompts, Sampling(steps=2, batch=2), seed=3)
    noise = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(3 * 1_000_003 + 2))
    alone = pipe(
        prompts[2], num_inference_steps=2, guidance_scale=4.0, latents=noise[None], output_type="pt"
    ).images
    torch.testing.assert_close(images[2:], alone, atol=1e-5, rtol=0)
    assert images.shape == (3, 3, 128, 128) and not torch.allclose(images[0], images[1])


def test_adapters_are_summed_and_left_out_again(folder):
    pipe = load_pipeline(folder / "weights", CPU, "ddim")
    sampling, prompt = Sampling(steps=1), ["a mochi cat"]
    use(pipe, {})
    bare = generate(pipe, prompt, sampling)
    load_adapters(pipe, folder / "adapters", ["mochi", "ember"])
    assert torch.equal(generate(pipe, prompt, sampling), bare)
    use(pipe, {"mochi": 1.0, "ember": 0.5})
    both = generate(pipe, prompt, sampling)
    use(pipe, {"mochi": 1.0})
    one = generate(pipe, prompt, sampling)
    use(pipe, {})
    assert torch.equal(generate(pipe, prompt, sampling), bare)
    assert not torch.allclose(both, one) and not torch.allclose(one, bare)


def test_errors_name_what_is_missing(folder, tmp_path):
    with pytest.raises(ModelError, match="no pipeline in"):
        load_pipeline(tmp_path, CPU)
    with pytest.raises(RequestError, match=r"scheduler 'dim' is not known; did you mean ddim"):
        load_pipeline(folder / "weights", CPU, "dim")
    with pytest.raises(AdapterNotFoundError, match=r"no adapter 'moch' in .*did you mean mochi"):
        find_adapter(folder / "adapters", "moch")
    assert find_adapter(folder / "adapters", "mochi").name == "mochi.safetensors"


def test_measures_count_every_picture(folder):
    recognizer = Recognizer().eval()
    bench = Bench(
        recognizer, CPU, folder / "weights", folder / "adapters", 2, 0, Sampling(steps=1, batch=4)
    )
    report, cells = measure_base(bench)
    totals = {figure.name: figure.total for figure in report.figures}
    assert totals["held_out wording, 2 things / all right"] == 2
    assert totals["fresh wording, 2 things / all right"] == 2
    assert totals["train wording, 3 things / species"] == 6 and len(cells) == 12
    report, cells = measure_recognizer(bench)
    assert sum("all right" in figure.name for figure in report.figures) == 6 and len(cells) == 12
    report, cells = measure_merge(bench)
    totals = {figure.name: figure.total for figure in report.figures}
    assert totals["sum at weight 1 / all pairs / both right in full"] == 30 and len(cells) == 60
    assert totals["sum at weight 1/2 / pairs of one species / someone vanished"] == 4
    assert all(figure.right == 0 for figure in report.figures if "right" in figure.name)
    report, _ = measure_speed(bench)
    assert all(value > 0 for value in report.values.values())


def test_the_program_writes_and_complains_in_one_line(folder, tmp_path, capsys):
    options = [
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
        "--n",
        "1",
        "--recognizer",
        str(folder / "recognizer"),
    ]
    assert world.main(["recognizer", *options]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "recognizer.json",
        "recognizer.md",
        "recognizer.png",
    }
    assert "| base words, 2 things / all right |" in capsys.readouterr().out
    assert world.main(["base", *options, "--model", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: no pipeline in")


def test_judging_matches_pictures_to_demands_in_order():
    images = torch.rand(2, 3, 128, 128)
    judged = judge(
        Recognizer().eval(),
        images,
        ["a", "b"],
        [Expectation(()), Expectation((), background="moon")],
    )
    assert judged.scores[1].background == (judged.readings[1].background == "moon")

"""The tab that trains an adapter from pictures."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
import yaml

from compose.adapters.header import CATEGORIES
from compose.errors import MissingExtraError, RequestError

from ..studio import Studio
from . import status
from .app import App, Work, buttons, cancels, run
from .confined import ADAPTERS, MAX_UPLOAD, kind_of
from .work import Stepped, Warned
from .worker import Job

_NAME = re.compile(r"[a-z][a-z0-9_-]{1,31}")
_PICTURES = {"png": "png", "jpeg": "jpg", "webp": "webp"}
_MOST = 200  # pictures


def draw(app: App) -> None:
    """Draw the tab at this place of the page."""
    gr.Markdown(
        "Teach the model something of your own from a few pictures. The adapter lands in the"
        " library, ready to be composed."
    )
    with gr.Row():
        with gr.Column():
            pictures = gr.File(
                label="Pictures: PNG, JPEG or WebP",
                file_count="multiple",
                file_types=[".png", ".jpg", ".jpeg", ".webp"],
                height=220,
            )
            captions = gr.Textbox(
                label="Captions",
                info="one a line, in the order of the pictures; or one for all. With the trigger.",
                lines=5,
            )
        with gr.Column():
            name = gr.Textbox(label="Name", placeholder="dusky", max_lines=1)
            trigger = gr.Textbox(label="Trigger", placeholder="<v2>", max_lines=1)
            category = gr.Dropdown(list(CATEGORIES), value="character", label="Kind")
            word = gr.Textbox(label="Class word", placeholder="cat", max_lines=1)
            steps = gr.Number(300, label="Steps", precision=0, minimum=1, maximum=100_000)
            with gr.Row():
                go = gr.Button("Train", scale=3)
                stop = gr.Button("Cancel", interactive=False, scale=1)
            line = gr.HTML(status.calm("ready"))
    asked = [pictures, captions, name, trigger, category, word, steps]

    def start(request: gr.Request, *values: Any) -> Iterator[Sequence[Any]]:
        for seen in run(app, str(request.session_hash), lambda: make(app, *values)):
            yield seen.line, *buttons(not seen.done)

    go.click(
        start,
        asked,
        [line, go, stop],
        show_progress="hidden",
        concurrency_limit=None,
        api_visibility="private",
    )
    cancels(app, stop)


def make(
    app: App,
    pictures: Sequence[str] | None,
    captions: str,
    name: str,
    trigger: str,
    category: str,
    word: str,
    steps: int,
) -> Work:
    """Work that trains an adapter.

    Raises:
        MissingExtraError: peft is not installed.
        RequestError: pictures, captions or a name that will not do.
    """
    if find_spec("peft") is None:
        raise MissingExtraError(
            "training needs peft, which is not installed; expected the extra train, so run"
            " pip install 'lora-compose[train]'"
        )
    lines = [line.strip() for line in captions.splitlines() if line.strip()]
    files = [Path(path) for path in pictures or ()]
    _check(files, lines, name)
    out = app.folder / ADAPTERS / f"{name}.safetensors"
    if out.exists() or name in app.entries():
        raise RequestError(f"an adapter is called {name} already; expected another name")
    concept = {
        "name": name,
        "trigger": trigger.strip(),
        "category": category,
        "images": "pictures",
        **({"class_word": word.strip()} if word.strip() else {}),
    }
    content = [(file.read_bytes(), lines[k % len(lines)]) for k, file in enumerate(files)]

    def work(studio: Studio, job: Job) -> None:
        with tempfile.TemporaryDirectory() as place:
            config = _written(Path(place), concept, content)
            _train(config, out, studio, job, steps)
        job.put(Warned(f"{name} is in the library now; reload the page to choose it"))

    return work


def _check(files: Sequence[Path], lines: Sequence[str], name: str) -> None:
    if not 1 <= len(files) <= _MOST:
        raise RequestError(f"{len(files)} pictures were given; expected 1 to {_MOST}")
    for file in files:
        with file.open("rb") as stream:
            kind = kind_of(stream.read(64))
        if kind not in _PICTURES or file.stat().st_size > MAX_UPLOAD:
            raise RequestError(f"{file.name} was given; expected PNG, JPEG or WebP pictures")
    if len(lines) not in (1, len(files)):
        raise RequestError(
            f"{len(lines)} captions were given for {len(files)} pictures; expected one each, or one"
            " for all"
        )
    if not _NAME.fullmatch(name.strip()) or name != name.strip():
        raise RequestError(
            f"the name {name!r} was given; expected 2 to 32 small letters, digits, - or _, such as"
            " dusky"
        )


def _written(place: Path, concept: Any, content: Sequence[tuple[bytes, str]]) -> Path:
    """A concept file with its pictures and captions in a folder."""
    folder = place / "pictures"
    folder.mkdir()
    for number, (data, caption) in enumerate(content):
        ending = _PICTURES[kind_of(data[:64]) or "png"]
        (folder / f"{number:03}.{ending}").write_bytes(data)
        (folder / f"{number:03}.txt").write_text(caption + "\n")
    config = place / "concept.yaml"
    config.write_text(yaml.safe_dump(concept, allow_unicode=True))
    return config


def _train(config: Path, out: Path, studio: Studio, job: Job, steps: int) -> None:
    """Train beside the loaded model, with a copy of its own."""
    from compose.models.detect import model_folder
    from compose.train.lora import train_file

    from ..hub import local_model

    start = time.monotonic()

    def tell(done: int, total: int, loss: float) -> None:
        job.check()
        job.put(Stepped(done, total, time.monotonic() - start, None))

    setting = studio.setting
    model = model_folder(local_model(setting.model, offline=True))
    out.parent.mkdir(exist_ok=True)
    train_file(
        config,
        model=model,
        out=out,
        device=setting.device,
        overrides={"steps": steps},
        progress=tell,
    )

"""What a picture says about how it was made, as text chunks of its PNG file.

``lora_compose`` holds everything that is needed to make the picture again, in JSON. ``parameters``
says the same, as far as it can, in the form that other programs and galleries read.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from PIL import Image, PngImagePlugin

from compose.errors import RequestError
from compose.models.options import USUAL, LoadOptions
from compose.prompt import tags
from compose.request import AdapterUse, Request

from .beside import Beside
from .infotext import Infotext, write_infotext

RECIPE, INFOTEXT = "lora_compose", "parameters"
FORMAT = 1
MAX_FILE = 256 * 2**20
"""Largest picture file that is read, in bytes."""
MAX_RECIPE = 512 * 2**10
"""Longest recipe that is read, in characters."""
MAX_THREADS = 1024
MAX_DEPTH = 32
"""Deepest nesting of a recipe that is read."""
_UNREADABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, zlib.error),
    Image.DecompressionBombError,
)
_SAMPLERS: Mapping[
    str, str
] = {  # as A1111 and Forge call them, which choose the shift by the model
    "DDIMScheduler": "DDIM",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "EulerDiscreteScheduler": "Euler",
    "FlowMatchEulerDiscreteScheduler": "Euler",
    "FlowMatchHeunDiscreteScheduler": "Heun",
    "HeunDiscreteScheduler": "Heun",
    "PNDMScheduler": "PLMS",
    "UniPCMultistepScheduler": "UniPC",
}


@dataclass(frozen=True)
class AdapterMark:
    """An adapter file as a picture remembers it.

    Attributes:
        name: how it was called.
        autov2: first 10 hex digits of the file's SHA-256.
        autov3: first 12 hex digits of the SHA-256 of its tensors.
    """

    name: str
    autov2: str
    autov3: str


@dataclass(frozen=True)
class Recipe:
    """Everything that decided how a picture came out.

    Attributes:
        request: asks for this picture alone.
        model: as it was named.
        fingerprint: of the model's files.
        adapters: in the order of the request.
        versions: distribution to version.
        device, dtype: where it was made, such as "cpu" and "fp32".
        sampler: class name of the scheduler.
        sha256: of the raw RGB bytes.
        options: how the model was loaded. What changes no pixel is not written down.
        threads: that a CPU computed with; None where they play no part or were not written down.
        beside: what shared the picture's denoiser calls; None where nothing did.
    """

    request: Request
    model: str
    fingerprint: str
    adapters: tuple[AdapterMark, ...]
    versions: Mapping[str, str]
    device: str
    dtype: str
    sampler: str
    sha256: str
    options: LoadOptions = USUAL
    threads: int | None = None
    beside: Beside | None = None

    def to_json(self) -> dict[str, Any]:
        """A form that JSON can hold; `from_json` reads it back."""
        options = self.options.deciding()
        return {
            "format": FORMAT,
            "request": self.request.to_json(),
            "model": {"name": self.model, "fingerprint": self.fingerprint},
            "adapters": [asdict(mark) for mark in self.adapters],
            "versions": dict(self.versions),
            "device": self.device,
            "dtype": self.dtype,
            "sampler": self.sampler,
            "sha256": self.sha256,
            **({"options": options} if options else {}),
            **({} if self.threads is None else {"threads": self.threads}),
            **({} if self.beside is None else {"beside": self.beside.to_json()}),
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read what `to_json` wrote. Entries of later versions are passed over.

        Raises:
            RequestError: not such a recipe, or one of a later format.
        """
        try:
            if data["format"] != FORMAT:
                raise RequestError(
                    f"the recipe has format {data['format']}; expected {FORMAT}: it was made by"
                    " another version of lora-compose, so use that one"
                )
            model = data["model"]
            marks = [AdapterMark(**{k: str(m[k]) for k in _MARK}) for m in data["adapters"]]
            return cls(
                request=_read_request(data["request"], len(marks)),
                adapters=tuple(marks),
                model=str(model["name"]),
                fingerprint=str(model["fingerprint"]),
                versions={str(k): str(v) for k, v in data["versions"].items()},
                options=_read_options(data.get("options", {})),
                threads=_read_threads(data.get("threads")),
                beside=None if data.get("beside") is None else Beside.from_json(data["beside"]),
                **{name: str(data[name]) for name in ("device", "dtype", "sampler", "sha256")},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise RequestError(
                f"the recipe could not be read: {type(error).__name__} {error}; expected what"
                " lora-compose generate writes"
            ) from None


def _read_request(data: Any, marks: int) -> Request:
    request = Request.from_json(data)
    texts = (request.prompt, request.negative, *(use.name for use in request.adapters))
    sound = len(request.seeds) == 1 and len(request.adapters) == marks
    if not sound or not all(isinstance(text, str) for text in texts):
        raise RequestError(
            "the recipe contradicts itself; expected one seed, texts, and every adapter twice"
        )
    return request


def _read_options(data: Any) -> LoadOptions:
    """Read what `LoadOptions.deciding` gave."""
    usual = {f.name: f.default for f in fields(LoadOptions)}
    given = {name: value for name, value in data.items() if name in usual}
    for name, value in given.items():
        expected = bool if isinstance(usual[name], bool) else str
        if not isinstance(value, expected):
            raise RequestError(f"the recipe has {name} {value!r}; expected a {expected.__name__}")
    return LoadOptions(**given)


def _read_threads(data: Any) -> int | None:
    if data is None or (isinstance(data, int) and 1 <= data <= MAX_THREADS):
        return data
    raise RequestError(f"the recipe has {data!r} threads; expected 1 to {MAX_THREADS}")


_MARK = tuple(AdapterMark.__dataclass_fields__)


def infotext(recipe: Recipe, *, distilled: bool = False) -> Infotext:
    """A recipe in the words of other programs.

    Args:
        recipe: of the picture.
        distilled: as of `Family.distilled`. The request's guidance is then Forge's "Distilled CFG
            Scale", left out at 0, which stands for a model that takes none; "CFG scale" is that of
            classifier-free guidance as for all models, 1 for none.
    """
    request = recipe.request
    guidance, own = request.guidance, None
    if distilled:
        guidance, own = request.true_cfg or 1.0, request.guidance or None
    named = zip(recipe.adapters, request.adapters, strict=True)
    uses = [AdapterUse(mark.name, use.weight, use.text_weight) for mark, use in named]
    settings = {
        "Steps": str(request.steps),
        "Sampler": _SAMPLERS.get(recipe.sampler, recipe.sampler.removesuffix("Scheduler")),
        "CFG scale": f"{guidance:g}" if guidance is not None else "",
        "Distilled CFG Scale": f"{own:g}" if own is not None else "",
        "Clip skip": str(request.clip_skip or ""),
        "Seed": str(request.seeds[0]),
        "Size": str(request.size or ""),
        "Model hash": recipe.fingerprint[:10],
        "Model": Path(recipe.model).name,
        "Lora hashes": ", ".join(f"{mark.name}: {mark.autov3}" for mark in recipe.adapters),
        "Composition": request.method.name,
        "Version": f"lora-compose {recipe.versions.get('lora-compose', '')}".strip(),
    }
    prompt = " ".join(part for part in (request.prompt, tags(uses)) if part)
    return Infotext(prompt, request.negative, {k: v for k, v in settings.items() if v})


def png_bytes(
    image: Image.Image, recipe: Recipe | None = None, *, distilled: bool = False
) -> bytes:
    """A PNG file, with the recipe in it where there is one; `distilled` as of `infotext`."""
    chunks = PngImagePlugin.PngInfo()
    if recipe is not None:
        chunks.add_text(INFOTEXT, write_infotext(infotext(recipe, distilled=distilled)))
        chunks.add_text(RECIPE, json.dumps(recipe.to_json(), allow_nan=False))
    out = io.BytesIO()
    image.save(out, "PNG", pnginfo=chunks)
    return out.getvalue()


def read_texts(path: Path) -> dict[str, str]:
    """Text chunks of a PNG file, by key.

    Raises:
        RequestError: no such file, no PNG, too large, or damaged.
    """
    if not path.is_file():
        raise RequestError(f"{path} is no file; expected a PNG picture, check the path")
    if path.stat().st_size > MAX_FILE:
        raise RequestError(
            f"{path} is larger than {MAX_FILE // 2**20} MiB; expected a picture by lora-compose"
        )
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return {str(k): v for k, v in picture.info.items() if isinstance(v, str)}
    except _UNREADABLE as error:
        raise RequestError(
            f"{path} cannot be read as a PNG picture ({error}); expected one by lora-compose"
        ) from None


def read_recipe(path: Path) -> Recipe:
    """The recipe that a picture carries.

    Raises:
        RequestError: there is none, or it makes no sense.
    """
    texts = read_texts(path)
    if RECIPE not in texts:
        other = "only the notes of another program" if INFOTEXT in texts else "none"
        raise RequestError(
            f"{path} was given and carries {other}; expected a PNG with a lora_compose recipe, as"
            " lora-compose generate writes (some sites and editors strip it: use the original file)"
        )
    try:
        return Recipe.from_json(_parse(texts[RECIPE]))
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None


def _parse(text: str) -> Any:
    """JSON from a file that anybody may have made."""
    if len(text) > MAX_RECIPE:
        raise RequestError(f"the recipe has {len(text)} characters; expected at most {MAX_RECIPE}")
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the recipe is no JSON ({error}); expected a whole one") from None
    if _deeper(data, MAX_DEPTH):
        raise RequestError(f"the recipe is nested deeper than {MAX_DEPTH}; expected a flat one")
    return data


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _deeper(data: Any, limit: int) -> bool:
    """Whether lists and tables are nested deeper than `limit`."""
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return limit < 0 or any(_deeper(item, limit - 1) for item in inner)

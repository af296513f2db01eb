"""The recognizer on disk: one safetensors file that says which words it was trained on."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from compose.errors import ModelError
from compose.world.recognizer import PICTURE_HEADS, THING_HEADS, Recognizer, channels_last

FILE = "recognizer.safetensors"
_FORMAT = "lora-compose recognizer 1"
_COUNTERS = "num_batches"  # of the normalisation; of no use after training


def save_recognizer(recognizer: Recognizer, path: Path) -> Path:
    """Write the weights: half precision, normalisation statistics in single precision.

    Args:
        recognizer: not folded.
        path: file, or folder that then holds ``recognizer.safetensors``.

    Returns:
        The file.
    """
    path = path if path.suffix else path / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (part if "running" in name else part.half()).contiguous().cpu()
        for name, part in recognizer.state_dict().items()
        if _COUNTERS not in name
    }
    metadata = {
        "format": _FORMAT,
        "words": _vocabulary(),
        "temperatures": json.dumps(recognizer.temperatures),
        "threshold": str(recognizer.threshold),
    }
    save_file(tensors, path, metadata)
    return path


def recognizer_path() -> Path:
    """The file of the recognizer that is shipped."""
    return Path(__file__).parent / "weights" / "recognizer" / FILE


def load_recognizer(path: Path | None = None) -> Recognizer:
    """Read the weights and make them ready for inference: single precision, normalisation folded.

    Args:
        path: file or folder; None for the recognizer that is shipped.

    Raises:
        ModelError: the file is missing, is none of ours, or knows other words than this version.
    """
    path = recognizer_path() if path is None else Path(path)
    path = path / FILE if path.is_dir() else path
    metadata, tensors = _contents(path)
    if metadata.get("format") != _FORMAT or metadata.get("words") != _vocabulary():
        raise ModelError(
            f"{path} was trained on other words (format {metadata.get('format')!r}), expected "
            f"{_FORMAT!r} and this version's vocabulary; train the recognizer again"
        )
    recognizer = Recognizer()
    missing, unknown = recognizer.load_state_dict(tensors, strict=False)
    wrong = [name for name in missing if _COUNTERS not in name] + list(unknown)
    if wrong:
        raise ModelError(
            f"{path} does not fit the recognizer's layers ({', '.join(wrong[:3])}); train it again"
        )
    recognizer.temperatures = json.loads(metadata["temperatures"])
    recognizer.threshold = float(metadata["threshold"])
    recognizer.requires_grad_(False)
    return channels_last(recognizer.fold())


def _contents(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors, these in single precision."""
    if not path.is_file():
        raise ModelError(
            f"no recognizer at {path}, expected {FILE}; "
            "train one with `python -m compose.train recognizer`"
        )
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is no safetensors file ({error}); train or copy the recognizer again"
        ) from None


def _vocabulary() -> str:
    return json.dumps({**THING_HEADS, **PICTURE_HEADS}, sort_keys=True)

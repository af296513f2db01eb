"""Optional packages: there and working, or an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from compose.errors import MissingExtraError


@contextmanager
def needs(package: str, extra: str) -> Iterator[None]:
    """Around imports that need an extra.

    A torchvision that was built for another torch (such as PyPI's beside a torch for the CPU)
    raises RuntimeError when it is imported, and takes transformers and diffusers with it.

    Args:
        package: name of the distribution that is imported.
        extra: of lora-compose that installs it.

    Raises:
        MissingExtraError: the package is not there or does not work here.
    """
    try:
        yield
    except (ImportError, RuntimeError) as error:
        raise MissingExtraError(_advice(package, extra, error)) from error


def _advice(package: str, extra: str, error: Exception) -> str:
    if _version(package) is None:
        return f"{package} is not installed; run pip install 'lora-compose[{extra}]'"
    reason = " ".join(str(error).split())
    vision, torch = _version("torchvision"), _version("torch")
    advice = f"install the extra again: pip install 'lora-compose[{extra}]'"
    if vision is not None:
        advice = (
            f"torchvision {vision} may not fit torch {torch}: install the build that does (for a"
            " torch without CUDA, the CPU build: PyTorch's install page has the command), or"
            f" uninstall it and do without [{extra}]"
        )
    return f"{package} is installed but cannot be imported ({reason}); {advice}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

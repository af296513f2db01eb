"""What the header of an adapter file tells before a tensor is loaded: which modules and ranks."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from compose.adapters import keys
from compose.adapters.originals import Original, original_of
from compose.adapters.safe import Header, TensorInfo, read_header, refusal, shown
from compose.adapters.scaling import CONFIG_NAME, WEIGHTS_NAME

_PLAIN = "plain LoRA or LoCon (pairs of low-rank factors)"


@dataclass(frozen=True)
class Pair:
    """The factors of one module, as the header lists them.

    Attributes:
        stem: the module, in the spelling of the file.
        layout: whose spelling it is.
        where: the place in a model that the stem points to.
        down: name of the first factor.
        up: name of the second factor.
        alpha: name of the tensor with alpha; None where there is none.
        down_shape: [r, d_in] or [r, c_in, kh, kw].
        up_shape: [d_out, r] or [d_out, r, 1, 1].
    """

    stem: str
    layout: keys.Layout
    where: keys.Address
    down: str
    up: str
    alpha: str | None
    down_shape: tuple[int, ...]
    up_shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Length of the inner axis."""
        return self.down_shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense change, [d_out, d_in] or [c_out, c_in, kh, kw]; no unit kernels."""
        inner = self.down_shape[1:]
        return (self.up_shape[0], *(inner[:1] if inner[1:] == (1, 1) else inner))

    @property
    def original(self) -> Original | None:
        """Whose first release named the module, for a module of a denoiser."""
        text = keys.component(self.where).startswith("text_encoder")
        return None if text or self.layout == "xlabs" else original_of(keys.inside(self.where))


@dataclass(frozen=True)
class Outline:
    """An adapter file, known by its header.

    Attributes:
        path: of the weights.
        header: checked.
        layout: spelling of the names, and whose names they are where these are not diffusers', as
            in "kohya-bfl"; "mixed" where a file has several of either.
        pairs: stem to factors, sorted.
        ignored: names of tensors that have no meaning here.
    """

    path: Path
    header: Header
    layout: str
    pairs: Mapping[str, Pair]
    ignored: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the file, or of the folder of a PEFT adapter."""
        return display_name(self.path)

    @property
    def place(self) -> Path:
        """The file, or the folder of a PEFT adapter: what users name, and what notes lie beside."""
        return self.path.parent if self.name != _bare(self.path) else self.path

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Dtypes of the factors."""
        names = (name for pair in self.pairs.values() for name in (pair.down, pair.up))
        return tuple(sorted({self.header.tensors[name].dtype for name in names}))


def weights_path(path: str | Path) -> Path:
    """The file with the weights: the path itself, or the one inside a PEFT folder."""
    path = Path(path)
    inside = path / WEIGHTS_NAME
    return inside if os.path.isfile(inside) else path


def display_name(path: Path) -> str:
    """How an adapter is called: after its file, or its folder where PEFT fixes the file's name."""
    if path.name == WEIGHTS_NAME and os.path.isfile(path.with_name(CONFIG_NAME)):
        return path.absolute().parent.name
    return _bare(path)


def _bare(path: Path) -> str:
    return path.name.removesuffix(".safetensors")


def read_outline(path: str | Path) -> Outline:
    """Read the header of an adapter file and pair its factors up. Loads no tensor.

    Args:
        path: a safetensors file, or a PEFT folder.

    Raises:
        AdapterFormatError: a file that is unsound, holds another kind of adapter or none, or whose
            factors do not pair up.
    """
    path = weights_path(path)
    header = read_header(path)
    refused = keys.unsupported(header.tensors)
    if refused:
        name, kind = refused
        advice = "use a plain LoRA, or convert this one by extracting a LoRA from the merged model"
        raise refusal(path, f"is {kind}, as tensor {shown(name)} shows", _PLAIN, advice)
    roles, layouts, ignored = _sort(path, header)
    if not roles:
        kind = keys.foreign(header.tensors) or "nothing that is known here"
        first = next(iter(header.tensors), "")
        given = f"holds {kind} (first tensor: {shown(first)})" if first else "holds no tensors"
        raise refusal(path, given, _PLAIN, "check that it is an adapter")
    pairs = {s: _pair(path, header, s, layouts.get(s), roles[s]) for s in sorted(roles)}
    return Outline(path, header, _layout(pairs.values()), pairs, tuple(ignored))


def _layout(pairs: Collection[Pair]) -> str:
    spellings = {pair.layout for pair in pairs}
    originals = {original for pair in pairs if (original := pair.original)}
    if len(spellings) > 1 or len(originals) > 1:
        return "mixed"
    return "-".join((*spellings, *originals))


def _sort(
    path: Path, header: Header
) -> tuple[dict[str, dict[keys.Role, str]], dict[str, keys.Layout], list[str]]:
    """Stem to its tensors by role, stem to its layout, and what is left over."""
    roles: dict[str, dict[keys.Role, str]] = {}
    layouts: dict[str, keys.Layout] = {}
    ignored: list[str] = []
    adapters: set[str] = set()
    for name in sorted(header.tensors):
        key = keys.parse(name)
        if key is None:
            ignored.append(name)
            continue
        mine = roles.setdefault(key.stem, {})
        if key.layout:
            layouts[key.stem] = key.layout
            adapters.add(key.adapter)
        if len(adapters) > 1 or key.role in mine:
            given = f"holds several adapters ({shown(', '.join(sorted(adapters)))})"
            raise refusal(path, given, "one adapter a file", "save them one by one")
        mine[key.role] = name
    lone = [stem for stem, mine in roles.items() if set(mine) == {"alpha"}]
    ignored += [roles.pop(stem)["alpha"] for stem in lone]
    return roles, layouts, ignored


def _pair(
    path: Path,
    header: Header,
    stem: str,
    layout: keys.Layout | None,
    roles: Mapping[keys.Role, str],
) -> Pair:
    """Check that the two factors of a module are there and chain."""
    if layout is None or "down" not in roles or "up" not in roles:
        missing = "second" if "down" in roles else "first"
        given = f"the {missing} factor of {shown(stem)} is missing"
        raise refusal(path, given, "two factors for every module", "download the file again")
    down, up = header.tensors[roles["down"]].shape, header.tensors[roles["up"]].shape
    if len(up) == 4 and up[2:] != (1, 1):
        given = f"{shown(roles['up'])} has a {up[2]}x{up[3]} kernel in the second factor"
        raise refusal(path, given, "the kernel in the first factor", "use another file")
    sound = len(down) in (2, 4) and len(up) in (2, 4) and min(*down, *up) > 0
    if not sound or down[0] != up[1]:
        given = f"the factors of {shown(stem)} have shapes {list(down)} and {list(up)}"
        expected = "[r, d_in] or [r, c_in, kh, kw], and [d_out, r], with the same r"
        raise refusal(path, given, expected, "use another file")
    alpha = roles.get("alpha")
    if alpha is not None and not _scalar(header.tensors[alpha]):
        given = f"{shown(alpha)} has shape {list(header.tensors[alpha].shape)}"
        raise refusal(path, given, "one number", "use another file")
    where = keys.address(stem, layout)
    return Pair(stem, layout, where, roles["down"], roles["up"], alpha, down, up)


def _scalar(info: TensorInfo) -> bool:
    return all(n == 1 for n in info.shape)

"""Renders packed scenes: antialiased signed-distance shapes, batched over pictures.

Each primitive is drawn in a small box around it, together with primitives of other scenes that have
the same shape and box size (see `compose.world.drawing.schedule`). Cost follows covered area; one
code path serves CPU and CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from compose.errors import ShapeError
from compose.world.drawing.distance import distance
from compose.world.drawing.fills import fade_share, second_share
from compose.world.drawing.schedule import Span, Work, schedule
from compose.world.drawing.table import COLUMNS, SIZE, Table, pack
from compose.world.scene import Scene
from compose.world.styles import apply_styles

__all__ = ["SIZE", "Table", "object_masks", "pack", "render", "render_table", "worn_shares"]

_CHUNK = {"cpu": 64, "cuda": 16384}  # scenes drawn together
_CALL_PIXELS = {"cpu": 1 << 18, "cuda": 1 << 26}  # pixels drawn by one call, to bound memory
_MAX_THINGS = 3
Inks = Callable[[Tensor], Tensor]


def render(scenes: Sequence[Scene], *, device: str | torch.device = "cpu") -> Tensor:
    """Draw scenes.

    Args:
        scenes: what to draw, N of them.
        device: where to draw.

    Returns:
        Pictures [N, 3, 128, 128], float32 in [0, 1], on the device.
    """
    return render_table(pack(scenes), device)


def render_table(table: Table, device: str | torch.device = "cpu") -> Tensor:
    """Draw packed scenes.

    Args:
        table: N packed scenes.
        device: where to draw.

    Returns:
        Pictures [N, 3, 128, 128], float32 in [0, 1], on the device. N float pictures of 192 KiB
        each must fit there; slice the table for more.
    """
    device = torch.device(device)
    out = torch.empty(len(table), 3, SIZE, SIZE, device=device)
    step = _CHUNK.get(device.type, 64)
    for start in range(0, len(table), step):
        part = table[start : start + step]
        canvas = _draw(part, device, _colours).clamp(0, 1)
        out[start : start + step] = apply_styles(canvas, part.styles)
    return out


def object_masks(scenes: Sequence[Scene], *, device: str | torch.device = "cpu") -> Tensor:
    """Visible pixels of each thing.

    Args:
        scenes: N scenes with at most three things each.
        device: where to draw.

    Returns:
        [N, 3, 128, 128] bool in the order of the scene's things; all False beyond the scene's own
        things.

    Raises:
        ShapeError: a scene has more than three things.
    """
    most = max((len(scene.things) for scene in scenes), default=0)
    if most > _MAX_THINGS:
        raise ShapeError(
            f"a scene with {most} things was given, masks hold {_MAX_THINGS}; ask for fewer things"
        )
    table = pack(scenes)
    device = torch.device(device)
    out = torch.empty(len(table), _MAX_THINGS, SIZE, SIZE, dtype=torch.bool, device=device)
    step = _CHUNK.get(device.type, 64)
    for start in range(0, len(table), step):
        part = table[start : start + step]
        out[start : start + step] = _draw(part, device, _things) > 0.5
    return out


def worn_shares(table: Table, device: str | torch.device = "cpu") -> Tensor:
    """How much of each pixel is an accessory.

    Args:
        table: N packed scenes.
        device: where to draw.

    Returns:
        [N, 128, 128] float32 in [0, 1], on the device.
    """
    device = torch.device(device)
    out = torch.empty(len(table), SIZE, SIZE, device=device)
    step = _CHUNK.get(device.type, 64)
    for start in range(0, len(table), step):
        out[start : start + step] = _draw(table[start : start + step], device, _worn)[:, 0]
    return out.clamp_(0, 1)


def _colours(rows: Tensor) -> Tensor:
    """RGB of edge, first and second ink, [3 inks, 3 channels, m]."""
    packed = rows[:, [COLUMNS.index(name) for name in ("edge", "ink", "ink2")]].T.long()
    return torch.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1).float() / 255


def _things(rows: Tensor) -> Tensor:
    """Instead of colours: channel i is 1 for primitives of thing i, [3 inks, 3 channels, m]."""
    things = torch.arange(_MAX_THINGS, device=rows.device).view(-1, 1)
    return (rows[:, COLUMNS.index("thing")] == things).float().expand(3, -1, -1)


def _worn(rows: Tensor) -> Tensor:
    """Instead of colours: 1 for primitives of accessories, [3 inks, 3 channels, m]."""
    return rows[:, COLUMNS.index("worn")].expand(3, 3, -1)


def _draw(table: Table, device: torch.device, inks_of: Inks) -> Tensor:
    """Draw the primitives of n scenes in order, [n, 3, 128, 128]."""
    plan = schedule(table.rows, table.counts)
    rows = table.rows[plan.order].to(device)
    inks = inks_of(rows)[..., None, None]  # [3, 3, M, 1, 1]
    if inks_of is not _colours:
        rows[:, COLUMNS.index("shade")] = 0
    numbers = _prepared(rows, plan.left.to(device), plan.top.to(device))
    corner = plan.corner.to(device)[:, None, None]
    canvas = torch.zeros(3, len(table) * SIZE * SIZE, device=device)
    limit = _CALL_PIXELS.get(device.type, 1 << 18)
    for span in plan.spans:
        most = max(limit // (span.box[0] * span.box[1]), 1)
        for start in range(span.start, span.stop, most):
            part = slice(start, min(start + most, span.stop))
            _paint(canvas, corner[part], numbers[part], inks[:, :, part], span)
    return canvas.view(3, -1, SIZE, SIZE).transpose(0, 1)


_PREPARED = ("x", "y", "a", "b", "s", "r", "cos", "sin", "line", "alpha", "tall", "shade",
             "fill", "fill_x", "fill_y", "fill_p", "fill_q", "fill_cos", "fill_sin")  # fmt: skip


def _prepared(rows: Tensor, left: Tensor, top: Tensor) -> Tensor:
    """The rows as drawing needs them: places within the box, sines of angles, [M, 19, 1, 1]."""
    col = dict(zip(COLUMNS, rows.unbind(1), strict=True))
    col["x"], col["fill_x"] = col["x"] - left, col["fill_x"] - left
    col["y"], col["fill_y"] = col["y"] - top, col["fill_y"] - top
    for name in ("", "fill_"):
        angle = col[name + "angle"]
        col[name + "cos"], col[name + "sin"] = torch.cos(angle), torch.sin(angle)
    col["tall"] = (col["b"] + col["r"]).clamp_min(1)
    return torch.stack([col[name] for name in _PREPARED], 1)[..., None, None]


def _paint(canvas: Tensor, corner: Tensor, numbers: Tensor, inks: Tensor, span: Span) -> None:
    """Draw g primitives of one class and as many scenes on the canvas [3, n * 128 * 128]."""
    col = dict(zip(_PREPARED, numbers.unbind(1), strict=True))  # [g, 1, 1] each
    edge, one, two = inks  # [3, g, 1, 1] each
    xs = torch.arange(span.box[0], device=canvas.device)
    ys = torch.arange(span.box[1], device=canvas.device)[:, None]
    where = (corner + (ys * SIZE + xs)).flatten()
    xs, ys = xs + 0.5, ys + 0.5
    x, y = xs - col["x"], ys - col["y"]  # [g, 1, w], [g, h, 1]
    along, down = x * col["cos"] + y * col["sin"], y * col["cos"] - x * col["sin"]  # [g, h, w]
    apart = distance(span.kind, along, down, col["a"], col["b"], col["s"]).sub_(col["r"])
    cover = (0.5 - apart).clamp_(0, 1).mul_(col["alpha"])
    tone = one
    if span.work is Work.FADE or span.work is Work.PATTERN:
        x, y = xs - col["fill_x"], ys - col["fill_y"]
        cos, sin = col["fill_cos"], col["fill_sin"]
        u = x * cos + y * sin
        if span.work is Work.FADE:
            share = fade_share(u, col["fill_p"])
        else:
            share = second_share(col["fill"], u, y * cos - x * sin, col["fill_p"], col["fill_q"])
        tone = torch.lerp(one, two, share)
    if span.work is Work.DRAWN or span.work is Work.PATTERN:
        tone = tone * (1 - down * (col["shade"] / col["tall"]))
        inner = (0.5 - col["line"] - apart).clamp_(0, 1)
        tone = torch.lerp(edge, tone, inner)
    below = canvas.index_select(1, where).view(3, *cover.shape)
    canvas.index_copy_(1, where, torch.lerp(below, tone, cover).flatten(1))

"""What may be uploaded: looked at before anything else of the server sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse

from .confined import MAX_UPLOAD, kind_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_FRAME = 64 * 2**10  # bytes that a form takes around its file


class UploadGuard:
    """ASGI middleware that lets only pictures and adapters of a modest size in, by what is in them.

    Args:
        app: the server behind.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http" or not str(scope["path"]).endswith("/upload"):
            await self.app(scope, receive, send)
            return
        body = await _body(receive, MAX_UPLOAD + _FRAME)
        reason = "is too large" if body is None else await _refused(scope, body)
        if body is None or reason:
            limit = f"{MAX_UPLOAD // 2**20} MB"
            said = (
                f"a file was given that {reason}; expected PNG, JPEG, WebP or safetensors of at"
                f" most {limit}"
            )
            await JSONResponse({"detail": said}, status_code=413 if body is None else 415)(
                scope, receive, send
            )
            return
        await self.app(scope, _again(body, receive), send)


async def _body(receive: Receive, most: int) -> bytes | None:
    """The whole body; None when it is longer than `most`."""
    parts, size = [], 0
    while True:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > most or message["type"] != "http.request":
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


async def _refused(scope: Message, body: bytes) -> str:
    """Why the files of a form are not taken; empty when they are."""
    async with Request(scope, _again(body, None)).form() as form:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        kinds = [kind_of(await file.read(64)) for file in files]
    return "is of another kind" if None in kinds else ""


def _again(body: bytes, then: Receive | None) -> Receive:
    """A body that was read, to be read once more."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if left:
            return left.pop()
        if then is None:
            return {"type": "http.disconnect"}
        return await then()

    return receive

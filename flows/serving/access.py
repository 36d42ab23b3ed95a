"""Who may use the server: everybody on this machine, or whoever has its token.

Without a token, the server answers only to names of this machine, and to no other website: a page on the internet that
a user visits could otherwise send requests to it. With a token, every path but /healthz asks for it: in the header
`Authorization: Bearer TOKEN`, or, for a browser that opened an address with `?token=TOKEN` once, in a cookie.
"""

import secrets
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.serving.errors import ApiError

COOKIE = "subject_diffusion_token"
OPEN_PATHS = frozenset({"/healthz", "/manifest.json"})
"""Paths that need no token: the state of the server, and the page's name and icon, which browsers ask without it."""
_SIGN_IN = """<!doctype html><title>Subject-Diffusion</title>
<body style="font: 16px/1.5 system-ui; max-width: 28rem; margin: 20vh auto; padding: 0 1rem">
<h1>Subject-Diffusion</h1><p>This server needs its access token. It was printed when the server started.</p>
<form><input name="token" type="password" autofocus aria-label="Access token"> <button>Open</button></form>"""


def is_loopback(host: str) -> bool:
    """Return whether only programs of this machine can reach a server at `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def make_token() -> str:
    """Return a new token of 192 random bits."""
    return secrets.token_urlsafe(24)


class AccessControl:
    """ASGI middleware that refuses requests without access.

    Args:
        app: the app behind it.
        token: token of the server; None for a server on loopback that needs none.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        answer = self._answer(scope, Headers(scope=scope))
        if answer is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _answer(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to a request that does not reach the app; None for one that does."""
        if _is_foreign(headers):
            return _refuse(403, f"requests from the website {headers['origin']} are refused", "foreign_origin")
        if self._token is None:
            host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
            if is_loopback(host):
                return None
            return _refuse(403, f"this server answers to localhost, not to {host!r}", "foreign_host")
        if scope["path"] in OPEN_PATHS or self._is_valid(_bearer(headers)) or self._is_valid(_cookie(headers)):
            return None
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if given and self._is_valid(given):
            answer = RedirectResponse(scope["path"], 303)
            answer.set_cookie(COOKIE, given, httponly=True, samesite="strict")
            return answer
        if "text/html" in headers.get("accept", ""):
            return HTMLResponse(_SIGN_IN, 401)
        message = "give the server's token in the header Authorization: Bearer TOKEN; it was printed at the start"
        return _refuse(401, message, "invalid_token", {"WWW-Authenticate": "Bearer"})

    def _is_valid(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), (self._token or "").encode())


def _refuse(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> Response:
    kind = "authentication_error" if status == 401 else "permission_error"
    return ApiError(message, None, code, status=status, kind=kind, headers=headers).response()


def _is_foreign(headers: Headers) -> bool:
    """Return whether a browser sent the request for a page of another website."""
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


def _bearer(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _cookie(headers: Headers) -> str:
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[COOKIE].value if COOKIE in cookies else ""

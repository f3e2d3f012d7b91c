"""One call of a server over HTTP, with a limit on its time and a sentence for each way in which it can fail."""

import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from laser_lightning.errors import UserError


class ServerError(UserError):
    """A call of a server that failed. ``str()`` is a sentence that names the server."""


class ServerUnreachable(ServerError):  # noqa: N818
    """Nobody listens, or the connection broke off before the whole answer was there."""


class ServerTimeout(ServerError):  # noqa: N818
    """The whole answer was not there in time."""


class ServerFailed(ServerError):  # noqa: N818
    """The server could not do what it was asked for (status 5xx): it may do so later, and another one may."""


class RequestRefused(ServerError):  # noqa: N818
    """The server does not do what it was asked for (status 4xx): neither will another one like it.

    Args:
        sentence: what the user reads.
        status: of HTTP.
    """

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """How long a server is waited for.

    Args:
        connect_seconds: until it takes a connection.
        answer_seconds: until the whole answer is there, a response to its end.
        attempts: how often a call is tried where nobody listens, or the server is busy (status 429 or 503).
        pause_seconds: before the second attempt; twice as long before each further one.
    """

    connect_seconds: float = 10.0
    answer_seconds: float = 600.0
    attempts: int = 3
    pause_seconds: float = 0.5

    def __post_init__(self) -> None:
        if min(self.connect_seconds, self.answer_seconds) <= 0 or self.attempts < 1 or self.pause_seconds < 0:
            raise UserError(
                "limits.connect_seconds and limits.answer_seconds must be above 0, limits.attempts at least 1 and "
                "limits.pause_seconds 0 or more."
            )


_BUSY = (429, 503)


class Server:
    """A server, as a place that JSON is sent to and comes from. Any number of threads may call it at once.

    Proxies of the environment are not asked: such servers stand beside the trainer.

    Args:
        url: such as ``http://node1:8000``, with or without ``/v1``.
        limits: how long it is waited for.
        api_key: sent with each call, where the server wants one (``vllm serve --api-key``).

    Raises:
        UserError: if the address is none.
    """

    def __init__(self, url: str, limits: Limits = Limits(), api_key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url!r} is no address of a server: give one such as http://node1:8000.")
        self.url, self.limits = url.rstrip("/").removesuffix("/v1"), limits
        self._place, self._host, self._port = parts.scheme, parts.hostname, parts.port
        self._path = urlsplit(self.url).path
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def call(
        self,
        method: str,
        route: str,
        body: Mapping[str, Any] | None = None,
        seconds: float | None = None,
        attempts: int | None = None,
    ) -> Any:
        """Send a request, and return its answer.

        Args:
            method: ``GET`` or ``POST``.
            route: such as ``/health``.
            body: sent as JSON.
            seconds: limit on the time, in place of ``limits.answer_seconds``.
            attempts: in place of ``limits.attempts``; 1 for what must not be done twice.

        Returns:
            What the JSON says; None where the answer has no body.

        Raises:
            ServerError: one of its kinds.
        """
        most = attempts or self.limits.attempts
        for attempt in range(1, most + 1):
            try:
                return self._call(method, route, body, seconds or self.limits.answer_seconds)
            except (ServerUnreachable, _Busy):
                if attempt == most:
                    raise
                time.sleep(self.limits.pause_seconds * 2 ** (attempt - 1))
        raise AssertionError

    def _call(self, method: str, route: str, body: Mapping[str, Any] | None, seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        kind = HTTPSConnection if self._place == "https" else HTTPConnection
        connection = kind(self._host, self._port, timeout=min(self.limits.connect_seconds, seconds))
        sent = None if body is None else json.dumps(body).encode()
        try:
            try:
                connection.connect()
            except TimeoutError as error:
                raise ServerUnreachable(
                    f"{self.url} takes no connection within {self.limits.connect_seconds:g} s: is the address right, "
                    "and the machine up?"
                ) from error
            assert connection.sock is not None
            taken = connection.sock
            taken.settimeout(_left(deadline))
            connection.request(method, self._path + route, sent, self._headers)
            answer = connection.getresponse()
            content = _read(answer.read1, taken, deadline)
        except TimeoutError as error:
            raise ServerTimeout(
                f"{self.url} did not answer {route} within {seconds:g} s: it is overloaded, or hangs (its log says "
                "more). Raise the limit (answer_seconds), or start it again."
            ) from error
        except ConnectionRefusedError as error:
            raise ServerUnreachable(
                f"{self.url} refuses connections: start it (vllm serve), or mend the address; a server that is still "
                "loading its model takes none yet."
            ) from error
        except socket.gaierror as error:
            raise ServerUnreachable(
                f"The host of {self.url} is not known ({error.strerror}): mend the address."
            ) from error
        except (OSError, HTTPException) as error:
            raise ServerUnreachable(
                f"The connection to {self.url} broke off ({error or type(error).__name__}): it died, or was stopped; "
                "its log says more."
            ) from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise self._failure(route, answer.status, content)
        try:
            return json.loads(content) if content else None
        except ValueError as error:
            raise ServerFailed(
                f"{self.url} answered {route} with something else than JSON: {_text(content)!r}: is it a vllm serve?"
            ) from error

    def _failure(self, route: str, status: int, content: bytes) -> ServerError:
        said = _message(content)
        if status in _BUSY:
            return _Busy(f"{self.url} is too busy for {route} (status {status}): {said}")
        if status >= 500:
            return ServerFailed(f"{self.url} failed at {route} (status {status}): {said}")
        return RequestRefused(f"{self.url} refuses {route} (status {status}): {said}", status)


class _Busy(ServerFailed):
    """Status 429 or 503."""


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _read(read: Callable[[int], bytes], taken: socket.socket, deadline: float) -> bytes:
    """The body of an answer. A socket's limit is for each wait, the deadline is for all of them."""
    content = bytearray()
    while True:
        taken.settimeout(_left(deadline))
        if not (piece := read(1 << 16)):
            return bytes(content)
        content += piece


def _message(content: bytes) -> str:
    """What the server says about an error: vLLM's words are in ``error.message``, ``error`` or ``detail``."""
    try:
        said = json.loads(content)
    except ValueError:
        return _text(content) or "it says no more"
    if isinstance(said, dict):
        said = said.get("error", said.get("detail", said))
    if isinstance(said, dict):
        said = said.get("message", said)
    return said if isinstance(said, str) else json.dumps(said)


def _text(content: bytes) -> str:
    return content[:300].decode(errors="replace")

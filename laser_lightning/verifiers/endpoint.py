"""A chat model behind an OpenAI-compatible endpoint: one question, one reply."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LARGEST_REPLY = 2**20
_REMEMBERED_REPLIES = 4096
_FIRST_PAUSE_SECONDS = 0.5


class EndpointError(RuntimeError):
    """An endpoint that did not give a usable reply."""


class ChatEndpoint:
    """Asks for chat completions, with a limit of time, retries and a cache.

    Args:
        url: Base of the endpoint, up to and with `/v1`.
        model: Name of the model there.
        seconds: Time limit of one attempt, from the connection to the last byte.
        retries: Attempts after the first one: where the connection fails or takes too long, at the HTTP statuses 408,
            429 and 5xx, and where the reply is no chat completion. Other statuses fail at once.
        api_key_variable: Name of the environment variable that holds the key; None sends none.
        cache: Folder in which replies are kept; None keeps them in the memory of the process only.
        parameters: Further fields of the request, such as the temperature.

    Attributes:
        longest_seconds: The longest that a question can take, pauses included.
    """

    def __init__(
        self,
        url: str,
        model: str,
        seconds: float,
        retries: int,
        api_key_variable: str | None,
        cache: str | None,
        parameters: dict[str, Any],
    ) -> None:
        self.url, self.model, self.seconds, self.retries = url.rstrip("/"), model, seconds, retries
        self.api_key_variable, self.cache, self.parameters = api_key_variable, cache, parameters
        pauses = sum(_FIRST_PAUSE_SECONDS * 2**number for number in range(retries))
        self.longest_seconds = (retries + 1) * seconds + pauses
        self._remembered: dict[str, str] = {}

    def ask(self, question: str, attempt_is_good: Callable[[str], bool]) -> str:
        """Asks a question, or looks its reply up.

        Args:
            question: The user's message.
            attempt_is_good: Says of a reply's text whether it can be used; others are asked for again, and not kept.

        Returns:
            The text of the reply.

        Raises:
            EndpointError: If no attempt gave a usable reply.
        """
        request = self.parameters | {"model": self.model, "messages": [{"role": "user", "content": question}]}
        key = hashlib.sha256(json.dumps([self.url, request], sort_keys=True).encode()).hexdigest()
        kept = self._look_up(key)
        if kept is not None and attempt_is_good(kept):
            return kept
        problem = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
            try:
                reply = self._post(request)
            except _TryAgainError as error:
                problem = str(error)
                continue
            if attempt_is_good(reply):
                self._keep(key, reply)
                return reply
            problem = f"the reply cannot be used: {reply[-100:]!r}"
        attempts = "1 attempt" if self.retries == 0 else f"{self.retries + 1} attempts"
        raise EndpointError(f"{self.url} gave no usable reply in {attempts}; the last time {problem}")

    def _post(self, request: dict[str, Any]) -> str:
        import requests  # here, because most runs have no judge

        headers = {}
        if self.api_key_variable is not None:
            if (api_key := os.environ.get(self.api_key_variable)) is None:
                raise EndpointError(
                    f"the environment variable {self.api_key_variable}, which holds the key, is not set"
                )
            headers["Authorization"] = f"Bearer {api_key}"
        deadline = time.monotonic() + self.seconds
        try:
            # The library's limit is for each wait; the deadline is for all of them.
            with requests.post(
                f"{self.url}/chat/completions", json=request, headers=headers, timeout=self.seconds, stream=True
            ) as answer:
                body = bytearray()
                for piece in answer.iter_content(1):  # a larger piece would be waited for
                    body += piece
                    if time.monotonic() > deadline or len(body) > _LARGEST_REPLY:
                        raise _TryAgainError(f"the reply was not complete after {self.seconds:g} s")
        except requests.Timeout as error:
            raise _TryAgainError(f"there was no reply within {self.seconds:g} s") from error
        except requests.RequestException as error:
            raise _TryAgainError(f"the connection failed ({error})") from error
        if answer.status_code != requests.codes.ok:
            said = f"it answered with status {answer.status_code}: {body[:200].decode(errors='replace')}"
            if answer.status_code in (408, 429) or answer.status_code >= 500:
                raise _TryAgainError(said)
            raise EndpointError(f"{self.url} refuses the question: {said}")
        try:
            text = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise _TryAgainError(f"the reply was no chat completion: {bytes(body[:100])!r}") from error
        if not isinstance(text, str):
            raise _TryAgainError("the reply had no text")
        return text

    def _look_up(self, key: str) -> str | None:
        if key not in self._remembered and self.cache is not None and (path := self._path(key)).is_file():
            return path.read_text(encoding="utf-8", errors="surrogatepass")
        return self._remembered.get(key)

    def _keep(self, key: str, reply: str) -> None:
        if len(self._remembered) == _REMEMBERED_REPLIES:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[key] = reply
        if self.cache is None:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Other workers, and other machines, may read and write the same file: it is there as a whole or not at all.
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_text(reply, encoding="utf-8", errors="surrogatepass")
        partial.replace(path)

    def _path(self, key: str) -> Path:
        assert self.cache is not None
        return Path(self.cache).expanduser() / key[:2] / f"{key}.txt"


class _TryAgainError(Exception):
    """What another attempt may mend."""

"""A server in a thread that says what a test tells it to."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], Any]


@dataclass
class FakeServer:
    """Answers routes by functions of the JSON that comes; what came is in ``calls``.

    A function returns what goes back as JSON, or a status and a text, or ``...``: then the connection breaks off.
    """

    answers: dict[str, Answer]
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def count(self, route: str) -> int:
        return sum(called == route for called, _ in self.calls)

    def start(self, port: int = 0) -> None:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply()

            def do_POST(self) -> None:
                self.reply()

            def reply(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked, route = json.loads(content) if content else {}, self.path.partition("?")[0]
                fake.calls.append((self.path, asked))
                fake.headers.append(dict(self.headers))
                said = fake.answers[route](asked) if route in fake.answers else (404, '{"detail": "Not Found"}')
                if said is ...:
                    return
                status, text = said if isinstance(said, tuple) else (200, json.dumps(said))
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Keep quiet."""

            def handle(self) -> None:
                with suppress(OSError):  # the test has given up waiting
                    super().handle()

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128  # many connect at once

        self.server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

"""A few pages over HTTP, answered by threads: probes of a worker, metrics of the fleet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from ..errors import TrackedQueueError, UsageError

# How long a client may take to ask.
ASK_S = 30.0

Query = Mapping[str, list[str]]
Answer = tuple[str, str, str]  # status, content type, text
Page = Callable[[Query], Answer]

WELL: Answer = ("200 OK", "text/plain; charset=utf-8", "ok\n")


def unwell(problem: str) -> Answer:
    """503, and why as text."""
    return "503 Service Unavailable", "text/plain; charset=utf-8", f"{problem}\n"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = ASK_S

    def log_message(self, *_: Any) -> None:
        """Probes come every few seconds."""


class HttpPages:
    """
    A server of pages by their path; `port` is the one that it listens on.

    A page that raises UsageError or ValueError answers 400; one that raises another error of ours, or TimeoutError, 503.

    Raises:
        OSError: It can't listen there.
    """

    def __init__(self, host: str, port: int, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._server = make_server(host, port, self._answer, _Server, handler_class=_Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="tracked_queue-http", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, kind, text = self._page(environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", ""))
        data = text.encode("utf-8", "replace")
        about = {"Content-Type": kind, "Content-Length": str(len(data)), "Cache-Control": "no-store"}
        start_response(status, list(about.items()))
        return [data]

    def _page(self, path: str, query: str) -> Answer:
        plain = "text/plain; charset=utf-8"
        page = self._pages.get(path)
        if page is None:
            return "404 Not Found", plain, f"there are {', '.join(self._pages)}\n"
        try:
            return page(parse_qs(query, keep_blank_values=True))
        except (UsageError, ValueError) as error:
            return "400 Bad Request", plain, f"{error}\n"
        except (TrackedQueueError, TimeoutError) as error:
            return unwell(str(error))

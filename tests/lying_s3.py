"""A TLS proxy in front of a real S3, that has the store's key and lies as it is told: requests are signed anew."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from tests.objectstore import S3

_KEPT = ("content-type", "if-none-match", "range", "x-amz-content-sha256")
_LEFT_OUT = ("connection", "transfer-encoding", "content-length", "date", "server")


@dataclass
class Request:
    """What a client asked; a lie may change it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """What the store answered; a lie may change it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


Pass = Callable[[Request], Answer]
Lie = Callable[[Request, Pass], Answer]


def honest(request: Request, onward: Pass) -> Answer:
    return onward(request)


def overwrites(request: Request, onward: Pass) -> Answer:
    """Ignore If-None-Match, as s3rver and old gateways do."""
    request.headers.pop("if-none-match", None)
    return onward(request)


def hides_names(request: Request, onward: Pass) -> Answer:
    """List the bucket as it was before anything was put."""
    if request.method == "GET" and "list-type=2" in request.path:
        request.path = request.path.replace("prefix=", "prefix=nothing-is-there-")
    return onward(request)


def drops_the_offset(request: Request, onward: Pass) -> Answer:
    """List from the start, whatever was asked for."""
    request.path = request.path.replace("start-after=", "x-start=")
    return onward(request)


def loses(request: Request, onward: Pass) -> Answer:
    """Give back the right number of other bytes."""
    answer = onward(request)
    if request.method == "GET" and "list-type" not in request.path and answer.status in (200, 206):
        answer.body = bytes(len(answer.body))
    return answer


def makes_up(request: Request, onward: Pass) -> Answer:
    """Answer for what was never put."""
    answer = onward(request)
    if request.method == "GET" and answer.status == 404:
        return Answer(200, [("ETag", '"0"'), ("Last-Modified", "Tue, 24 Nov 2026 00:00:00 GMT")], b"")
    return answer


def answers_500(_request: Request, _onward: Pass) -> Answer:
    return Answer(500, [], b"<Error><Code>InternalError</Code></Error>")


def is_full(request: Request, onward: Pass) -> Answer:
    if request.method == "PUT":
        return Answer(507, [], b"<Error><Code>InsufficientStorage</Code></Error>")
    return onward(request)


class FailsAfterThePut:
    """Do the first put and answer 500 to it: what was done is not heard of."""

    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, request: Request, onward: Pass) -> Answer:
        answer = onward(request)
        if request.method == "PUT" and answer.status == 200 and not self.failed:
            self.failed += 1
            return answers_500(request, onward)
        return answer


@dataclass
class LyingS3:
    """A proxy that runs; ``lie`` may be changed meanwhile. ``seen``: method and path of each request."""

    endpoint: str
    lie: Lie
    seen: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def lying(s3: S3, folder: Path, lie: Lie = honest) -> Iterator[LyingS3]:
    """Run a proxy on a free port of loopback, with a certificate of the store's authority."""
    certificate, key = s3.site.certificate().save(folder, "lying")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    made = LyingS3("", lie)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(s3, made))
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made.endpoint = f"https://localhost:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="lying-s3", daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(s3: S3, proxy: LyingS3) -> type[BaseHTTPRequestHandler]:
    trust = ssl.create_default_context(cafile=str(s3.ca))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name: self.headers[name] for name in _KEPT if name in self.headers}
            proxy.seen.append((self.command, self.path))
            answer = proxy.lie(Request(self.command, self.path, headers, body), self._onward)
            self.send_response_only(answer.status)
            length = str(len(answer.body))
            for name, value in answer.headers:
                if name.lower() not in _LEFT_OUT:
                    self.send_header(name, value)
                elif name.lower() == "content-length" and self.command == "HEAD":
                    length = value
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        def _onward(self, request: Request) -> Answer:
            where = urlsplit(s3.endpoint)
            request.path = _canonical(request.path)
            session = http.client.HTTPSConnection(where.hostname or "", where.port, context=trust, timeout=20)
            try:
                session.request(request.method, request.path, request.body, _signed(s3, request))
                answer = session.getresponse()
                return Answer(answer.status, answer.getheaders(), answer.read())
            finally:
                session.close()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    for method in ("GET", "PUT", "HEAD", "DELETE", "POST"):
        setattr(Handler, f"do_{method}", Handler._handle)
    return Handler


def _canonical(path: str) -> str:
    """Write a path and its query as they are signed: clients differ in what they escape."""
    parts = urlsplit(path)
    query = urlencode(sorted(parse_qsl(parts.query, keep_blank_values=True)), quote_via=quote, safe="-_.~")
    return quote(unquote(parts.path), safe="/-_.~") + (f"?{query}" if query else "")


def _signed(s3: S3, request: Request) -> dict[str, str]:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    made = AWSRequest(request.method, f"{s3.endpoint}{request.path}", dict(request.headers), request.body)
    made.context["client_config"] = None
    S3SigV4Auth(Credentials(s3.environ["S3_KEY"], s3.environ["S3_SECRET"]), "s3", "us-east-1").add_auth(made)
    return dict(made.headers.items())

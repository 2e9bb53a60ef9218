"""A man in the middle on loopback: what a client meets whose traffic somebody else routes."""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType

from dbsec.errors import GaveUp
from dbsec.secret import Secret
from dbsec.tls import wire
from dbsec.tls.ca import KeyPair
from dbsec.tls.context import Alert, client_context, server_context

_TICK_S = 0.1
_CHUNK = 64 * 1024
_SASL = struct.pack(">I", 10)  # AuthenticationSASL


@dataclass(frozen=True, slots=True)
class Encounter:
    """What one client did: ``trusted``: it went on to log in; ``password``: it gave its password in clear;
    ``captured``: that password, where it is to be kept; ``alert``: with which it ended the handshake; ``stripped``: it
    was shown a list of mechanisms without channel binding.
    """

    trusted: bool = False
    password: bool = False
    alert: Alert | None = None
    captured: Secret | None = None
    stripped: bool = False


class Impostor:
    """Stands in for a server while the block runs, on ``port`` of 127.0.0.1, in threads that end with it.

    ``certificate``: served after 'S' to SSLRequest; with None the answer is 'N', and what follows is in clear.
    ``upstream``: logins are relayed there, over TLS where it offers it (unverified), else in clear; with None the
    impostor asks for the password in clear itself, and hangs up. ``keep_password``: keep it, where it was made up.
    ``strips_binding``: leave SCRAM-SHA-256-PLUS out of what the relayed server offers. ``shown``: the client
    certificate that it relays with.
    """

    def __init__(
        self,
        certificate: KeyPair | None,
        upstream: tuple[str, int] | None,
        *,
        keep_password: bool = False,
        strips_binding: bool = False,
        shown: KeyPair | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        self._context = server_context(certificate) if certificate else None
        self._upstream = upstream
        self._keeps, self._strips = keep_password, strips_binding
        self._shown, self._timeout_s = shown, timeout_s
        self._met: queue.SimpleQueue[Encounter] = queue.SimpleQueue()
        self._over = threading.Event()

    def __enter__(self) -> Impostor:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, name=f"impostor-{self.port}")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        with contextlib.suppress(OSError):  # it has ended by itself
            self._listener.shutdown(socket.SHUT_RDWR)  # on Linux this ends a waiting accept()
        self._thread.join()

    def met(self, *, within_s: float = 5.0) -> Encounter:
        """Return the next client's encounter, once it is over. Errors: ``GaveUp`` where none came."""
        try:
            return self._met.get(timeout=within_s)
        except queue.Empty:
            raise GaveUp(f"no client of the impostor was done within {within_s:g} s") from None

    def _serve(self) -> None:
        clients: list[threading.Thread] = []
        with self._listener:
            while not self._over.is_set():
                with contextlib.suppress(OSError):
                    client, _ = self._listener.accept()
                    clients.append(threading.Thread(target=self._meet, args=(client,), name=self._thread.name))
                    clients[-1].start()
        for thread in clients:
            thread.join()

    def _meet(self, client: socket.socket) -> None:
        encounter = Encounter()
        try:
            client.settimeout(self._timeout_s)
            with self._greeted(client) as (victim, login):
                encounter = Encounter(trusted=True)
                if self._upstream is None:
                    given = _given_password(victim)
                    kept = Secret(given) if given and self._keeps else None
                    encounter = Encounter(trusted=True, password=bool(given), captured=kept)
                else:
                    encounter = Encounter(trusted=True, stripped=self._strips)
                    self._relay(victim, login, self._upstream)
        except ssl.SSLError as exc:
            encounter = Encounter(trusted=encounter.trusted, alert=Alert.of(exc))
        except OSError:
            pass  # the client hung up: that is an answer too, and the encounter holds it
        finally:
            self._met.put(encounter)

    @contextmanager
    def _greeted(self, client: socket.socket) -> Iterator[tuple[socket.socket, bytes]]:
        """Yield the client's socket, encrypted where it is to be, and its StartupMessage."""
        with ExitStack() as stack:
            sock = stack.enter_context(client)
            while (packet := wire.packet(sock)) in (wire.SSL_REQUEST, wire.GSSENC_REQUEST):
                if packet == wire.GSSENC_REQUEST or self._context is None:
                    sock.sendall(b"N")
                else:
                    sock.sendall(b"S")
                    sock = stack.enter_context(self._context.wrap_socket(sock, server_side=True))
            yield sock, packet

    def _relay(self, victim: socket.socket, login: bytes, upstream: tuple[str, int]) -> None:
        with ExitStack() as stack:
            server, offered = wire.ask_for_tls(*upstream, timeout_s=self._timeout_s)
            stack.enter_context(server)
            if offered:
                server = stack.enter_context(client_context(None, self._shown).wrap_socket(server))
            server.sendall(login)
            if self._strips:
                victim.sendall(_without_binding(*wire.message(server)))
            ready = stack.enter_context(selectors.DefaultSelector())
            ready.register(victim, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, victim)
            while not self._over.is_set():
                for key, _ in ready.select(_TICK_S):
                    source = victim if key.data is server else server
                    if not self._forward(source, key.data):
                        return

    def _forward(self, source: socket.socket, sink: socket.socket) -> bool:
        """Pass on all that has arrived; False once the source has hung up.

        Until it would block: what the TLS layer has decrypted already is invisible to the selector.
        """
        sink.settimeout(self._timeout_s)
        source.setblocking(False)
        try:
            while part := source.recv(_CHUNK):
                sink.sendall(part)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        return False


def _given_password(victim: socket.socket) -> str:
    victim.sendall(wire.CLEARTEXT_PASSWORD_REQUEST)
    kind, body = wire.message(victim)
    return body.rstrip(b"\0").decode("utf-8", "replace") if kind == b"p" else ""


def _without_binding(kind: bytes, body: bytes) -> bytes:
    """Write a server's message again; where it lists SASL mechanisms, without those that bind the channel."""
    if kind == b"R" and body[:4] == _SASL:
        names = [name for name in body[4:].split(b"\0") if name and not name.endswith(b"-PLUS")]
        body = _SASL + b"".join(name + b"\0" for name in names) + b"\0"
    return kind + struct.pack(">I", len(body) + 4) + body

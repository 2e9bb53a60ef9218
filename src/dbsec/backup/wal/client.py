"""What PostgreSQL runs for each WAL file: asks the resident archiver over its socket, and tells by an exit code.

    python3 -I -S client.py [--proof] [--timeout=S] [--peer=UID] SOCKET push PATH
    python3 -I -S client.py [--proof] [--timeout=S] [--peer=UID] SOCKET fetch NAME PATH

It needs nothing but Python 3.9, and imports next to nothing: its start is most of what a segment costs. Exit codes
of push: 0 acknowledged by the store, 1 try again. Of fetch: 0 written, 1 the archive ends here, proven, 255 anything
else. With --proof 92 and 93 stand for 0 and 1, which an interpreter also ends with when it fails, or has run nothing.
"""

import sys

TYPE_CHECKING = False  # of typing, which costs more than all else here
if TYPE_CHECKING:
    from _socket import socket

MAGIC = b"dbsec/1"
DONE, END = 92, 93
_MOST_ANSWER = 4096


def main(argv: list[str]) -> None:
    """Ask, and end the process with the exit code; no way leads around it."""
    said, words, proof = b"no unknown", argv[1:], "--proof" in argv
    try:
        said = _asked(words)
    except BaseException as exc:  # noqa: BLE001 also an interrupt is no end of the archive
        said = b"no " + f"{type(exc).__name__}: {exc}".encode("utf-8", "replace")
    import posix

    if said.startswith(b"no "):
        try:  # noqa: SIM105 contextlib is not there yet
            posix.write(2, b"dbsec: " + said[3:] + b"\n")
        except OSError:
            pass
    if said == b"ok":
        code = DONE if proof else 0
    elif "push" in words:
        code = 1
    else:
        code = (END if proof else 1) if said == b"end" else 255
    posix._exit(code)


def _asked(words: list[str]) -> bytes:
    options = [word for word in words if word.startswith("--")]
    given = dict(word[2:].partition("=")[::2] for word in options)
    place, verb, name, *rest = words[len(options) :]
    if set(given) - {"proof", "timeout", "peer"} or (verb, len(rest)) not in (("push", 0), ("fetch", 1)):
        raise ValueError("usage: client.py [--proof] SOCKET push PATH | fetch NAME PATH")
    wire = _connected(place, float(given.get("timeout") or 300), int(given.get("peer") or -1))
    return _pushed(wire, name) if verb == "push" else _fetched(wire, name, rest[0])


def _pushed(wire: "socket", path: str) -> bytes:
    import posix

    fd = posix.open(path, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC)
    folder, slash, name = path.rpartition("/")
    here = folder + slash if slash and path[0] == "/" else posix.getcwd() + "/" + folder
    answer = _answered(wire, fd, "push", name, here)
    return b"ok" if answer.startswith(b"ok ") else answer


def _fetched(wire: "socket", name: str, path: str) -> bytes:
    import posix

    part = path + ".part"
    try:  # noqa: SIM105 what a killed one left is not opened again: its archiver may still write to it
        posix.unlink(part)
    except FileNotFoundError:
        pass
    fd = posix.open(part, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC, 0o600)
    try:
        answer = _answered(wire, fd, "fetch", name, "")
        if not answer.startswith(b"ok "):
            return answer
        if posix.fstat(fd).st_size != int(answer[3:]):
            raise ValueError("the archiver wrote another size than it says")
        posix.rename(part, path)
        part = ""
    finally:
        if part:
            posix.unlink(part)
    folder = posix.open(path.rpartition("/")[0] or ("/" if path[0] == "/" else "."), posix.O_RDONLY)
    posix.fsync(folder)
    return b"ok"


def _connected(path: str, timeout_s: float, peer: int) -> "socket":
    import posix

    try:
        import _socket as net
    except ImportError:
        import socket as net  # type: ignore[no-redef]
    wire = net.socket(net.AF_UNIX, net.SOCK_STREAM)
    wire.settimeout(timeout_s)
    try:
        wire.connect(path)
    except OSError as exc:
        raise OSError(f"no archiver answers at '{path}': {exc}")  # noqa: B904
    # whoever else has put a socket there must not acknowledge what he throws away
    other = int.from_bytes(wire.getsockopt(net.SOL_SOCKET, net.SO_PEERCRED, 12)[4:8], sys.byteorder)
    if other not in (0, posix.geteuid(), peer):
        raise ValueError(f"'{path}' is served by the account {other}, which is not the archiver's")
    return wire


def _answered(wire: "socket", fd: int, *fields: str) -> bytes:
    """Send fields and an open file; return "ok SIZE", "end" or "no REASON". Anything else is an error."""
    body = b"\0".join([MAGIC, *(field.encode("utf-8", "surrogateescape") for field in fields), b"end"])
    told = [(1, 1, fd.to_bytes(4, sys.byteorder))]  # SOL_SOCKET, SCM_RIGHTS
    if wire.sendmsg([body], told) != len(body):
        raise ValueError("the request was cut off")
    wire.shutdown(1)
    answer = b""
    while (piece := wire.recv(_MOST_ANSWER)) and len(answer) <= _MOST_ANSWER:
        answer += piece
    text = answer[len(MAGIC) + 1 : -1]
    if answer != MAGIC + b" " + text + b"\n" or not (text == b"end" or text.startswith((b"no ", b"ok "))):
        raise ValueError("the archiver gave no answer, or one that is none")
    if text.startswith(b"ok ") and not text[3:].isdigit():
        raise ValueError("the archiver gave an answer that is none")
    return text


if __name__ == "__main__":
    main(sys.argv)

"""The start of the command line, and the end of it: every error of dbsec becomes two lines and its exit code."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from dbsec.cli import exits
from dbsec.errors import DbsecError

_LINT = ["migrate", "lint"]
_UNUSED = ("inspect", "ipaddress", "json")  # of what dataclasses, pathlib and dbsec.canonical import: 9 ms


def run() -> None:
    """Run the command line on ``sys.argv``."""
    if verb := exits.postgres_verb(sys.argv[1:]):
        exits.run_for_postgres(_run, verb, proof="--proof" in sys.argv)
    _run()


def _run() -> None:
    os.umask(0o077)
    for end in (signal.SIGTERM, signal.SIGHUP):  # a cancelled job and a closed terminal end as Ctrl-C does
        if signal.getsignal(end) is not signal.SIG_IGN:
            signal.signal(end, signal.default_int_handler)
    try:
        _command(sys.argv[1:])
    except DbsecError as exc:
        exits.say(exc)
        sys.exit(exc.exit_code)
    except KeyboardInterrupt:
        sys.exit(exits.INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(exits.COULD_NOT_TELL)
    except OSError as exc:
        exits.say(DbsecError(f"{exc.strerror or exc}: '{exc.filename}'", hint="df -h and ls -l tell why"))
        sys.exit(exits.COULD_NOT_TELL)
    except Exception:  # noqa: BLE001 the interpreter would exit with 1, which means findings
        _tell_traceback()
        sys.exit(exits.COULD_NOT_TELL)


def _command(argv: list[str]) -> None:
    if argv[:2] == _LINT:
        from dbsec import discovery

        discovery.defer(*_UNUSED)
        from dbsec.cli.migrate import plain

        if (given := plain.read(argv[2:])) is not None:
            sys.exit(_lint(given))
    from dbsec.cli.app import APP

    APP(obj=exits.at_once)


def _lint(given: dict[str, Any]) -> int:
    from dbsec import discovery
    from dbsec.cli.migrate import inputs

    with discovery.hidden("typing_extensions"):  # msgspec has what it needs from typing, 8 ms earlier
        import msgspec  # noqa: F401
    inputs.need_parser()
    from dbsec.cli.migrate import linting

    return linting.run(linting.Asked(**given), ending=exits.at_once)


def _tell_traceback() -> None:
    import traceback

    from dbsec import log

    print(log.Redactor().redact(traceback.format_exc()), end="", file=sys.stderr)

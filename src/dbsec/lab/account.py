"""Who runs the servers: the caller, or an unprivileged account where the caller is root (PostgreSQL refuses root)."""

from __future__ import annotations

import os
from pathlib import Path

from dbsec import process
from dbsec.errors import LabError, ProgramError
from dbsec.process import Account
from dbsec.progress import Progress

NAME = "dbsec-lab"


def server_account(progress: Progress) -> Account:
    """Return the account; as root ``dbsec-lab``, which is created where it is absent, and said so.

    ``nobody`` is never used: what other programs run as could then read the lab. Errors: ``LabError``.
    """
    if os.geteuid() != 0:
        return Account.current()
    try:
        return Account.named(NAME)
    except KeyError:
        progress.step(f"creating the system account '{NAME}': servers do not run as root")
    try:
        process.run(
            ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", NAME],
            cwd=Path("/"),
        )
        return Account.named(NAME)
    except (ProgramError, KeyError) as exc:
        raise LabError(f"cannot create account '{NAME}': {exc}", hint=f"useradd --system {NAME}") from exc


def may_enter(account: Account, folder: Path) -> bool:
    """Tell whether an account may go into a folder: every folder above must let it pass."""
    try:
        process.run(["/usr/bin/test", "-x", folder], cwd=Path("/"), account=account)
    except ProgramError:
        return False
    return True

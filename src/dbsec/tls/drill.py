"""The attacks on encryption in transit: each must succeed before the controls are there, and fail after."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dbsec.evidence import Control, Drill, Observation, Outcome
from dbsec.pg import Conninfo, connect, facts
from dbsec.tls import probe, sessions
from dbsec.tls.ca import Authority
from dbsec.tls.probe import Reply, Request, Tls
from dbsec.tls.stranger import STRANGERS, ask_for_password, impersonate, refusal

# invalid_authorization_specification: what pg_hba.conf answers, before any password
REFUSED_BY_HBA = "28000"

PLAINTEXT = Control(
    "TLS-PLAINTEXT",
    "No login and no query crosses the network in clear",
    "whoever is on the path reads and changes every row, and every password hash that is sent",
    ("OWASP A02:2021", "CIS PostgreSQL 16 6.8", "NIST SP 800-53 SC-8", "CWE-319"),
)
IMPERSONATION = Control(
    "TLS-IMPERSONATION",
    "The service talks to no server but its own",
    "a stranger between service and server reads and changes everything, although TLS is on",
    ("OWASP A07:2021", "NIST SP 800-52r2 4.5", "NIST SP 800-53 SC-23", "CWE-295", "CWE-297"),
)
PASSWORD = Control(
    "TLS-PASSWORD",
    "The service never gives its password away, whoever asks",
    "a server that is taken over, or a stranger with a stolen certificate, asks for the password and gets it",
    ("OWASP A07:2021", "NIST SP 800-53 IA-5(1)", "CWE-522"),
)
SCRAM = Control(
    "TLS-SCRAM",
    "Passwords are stored and proven by SCRAM-SHA-256 alone",
    "an MD5 hash from a backup is as good as the password, and the password itself is soon guessed",
    ("OWASP A02:2021", "NIST SP 800-53 IA-5(1)", "CWE-328"),
)
CLIENT_CERTIFICATE = Control(
    "TLS-CLIENT-CERTIFICATE",
    "Whoever changes the schema or copies everything proves himself by a client certificate too",
    "one leaked password is enough to drop a table or to take a full copy",
    ("OWASP A07:2021", "NIST SP 800-53 IA-2(1)", "NIST SP 800-53 IA-3"),
)
SESSIONS = Control(
    "TLS-SESSIONS",
    "Every network session is encrypted, replication included",
    "sessions that were opened before the change, or a forgotten job, still talk in clear",
    ("OWASP A02:2021", "CIS PostgreSQL 16 6.8", "NIST SP 800-53 SC-8"),
)


@dataclass(frozen=True, slots=True)
class TransitTarget:
    """What is attacked. ``service`` and ``mtls`` return the present DSNs: of the service, and of whoever changes the
    schema, without its client certificate. ``authority`` is the site's CA; ``admin`` may read pg_authid.
    """

    service: Callable[[], Conninfo]
    admin: Callable[[], Conninfo]
    mtls: Callable[[], Conninfo]
    authority: Authority


def drills(target: TransitTarget) -> tuple[Drill, ...]:
    """Return every drill of this pillar; they change nothing and leave no session."""
    strangers = [
        Drill(IMPERSONATION, f"serve a certificate: {s.name}", partial(_impersonation, target, s.name))
        for s in STRANGERS.values()
    ]
    return (
        Drill(PLAINTEXT, "log in as the service without TLS", partial(_plaintext, target)),
        *strangers,
        Drill(PASSWORD, "ask for the password in clear, with a good certificate", partial(_password, target)),
        Drill(SCRAM, "begin a login and look for MD5", partial(_scram, target)),
        Drill(CLIENT_CERTIFICATE, "log in without the client certificate", partial(_client_certificate, target)),
        Drill(SESSIONS, "look for sessions in clear", partial(_sessions, target)),
    )


def _plaintext(target: TransitTarget) -> Observation:
    service = target.service()
    in_clear, over_tls = first_answer(service, tls=False), first_answer(service)
    said = refusal(service.but(sslmode="disable", channel_binding=None, sslnegotiation=None))
    seen = {"in_clear": _shown(in_clear), "over_tls": _shown(over_tls), "libpq": said or "logged in"}
    if said is None or in_clear.request is not None:
        return Observation(Outcome.FAIL, f"'{service.user}' logs in without TLS", seen)
    if in_clear.sqlstate == REFUSED_BY_HBA and over_tls.request is not None:
        return Observation(Outcome.PASS, f"without TLS the server refuses '{service.user}' by 28000", seen)
    return Observation(Outcome.ERROR, "refused in clear, but not by pg_hba.conf, or over TLS too", seen)


def _impersonation(target: TransitTarget, name: str) -> Observation:
    service = target.service()
    met = impersonate(service, target.authority, STRANGERS[name])
    seen = {"sslmode": service.params.get("sslmode", "prefer"), **met.to_json()}
    if met.encounter.trusted:
        did = "gave it the password" if met.encounter.password else "accepted its certificate, if not its question"
        return Observation(Outcome.FAIL, f"the service met a stranger ({name}) and {did}", seen)
    if met.control is not None:
        return Observation(Outcome.ERROR, "the refusal proves nothing: a good certificate is refused too", seen)
    if met.verify_code != STRANGERS[name].code_for(service.host):
        return Observation(Outcome.ERROR, "refused, but the certificate's fault is another", seen)
    return Observation(Outcome.PASS, f"the service turned away from the stranger ({name})", seen)


def _password(target: TransitTarget) -> Observation:
    service = target.service()
    encounter, said = ask_for_password(service, target.authority)
    control = refusal(service)
    seen = {
        "require_auth": service.params.get("require_auth", ""),
        "libpq": said or "logged in",
        "password_given": encounter.password,
        "own_server": control or "logged in",
    }
    if encounter.password:
        return Observation(Outcome.FAIL, "a stranger asked for the service's password, and has it", seen)
    if encounter.trusted and control is None:
        return Observation(Outcome.PASS, "asked for its password in clear, the service hung up", seen)
    return Observation(Outcome.ERROR, "the service did not come so far as to be asked", seen)


def _scram(target: TransitTarget) -> Observation:
    service = target.service()
    answer = first_answer(service)
    with connect(target.admin()) as admin:
        hashed = sessions.md5_roles(admin)
    seen = {"answer": _shown(answer), "md5_roles": hashed}
    if answer.request not in (None, Request.SASL):
        return Observation(Outcome.FAIL, f"the server lets '{service.user}' in by {answer.request.name}", seen)
    if hashed:
        return Observation(Outcome.FAIL, f"{len(hashed)} roles have an MD5 hash for a password", seen)
    if answer.request is None:
        return Observation(Outcome.ERROR, f"the server does not ask '{service.user}' for anything", seen)
    return Observation(Outcome.PASS, "SCRAM is asked for, and no MD5 hash is stored", seen)


def _client_certificate(target: TransitTarget) -> Observation:
    login = target.mtls().but(sslcert=None, sslkey=None, sslcertmode="disable")
    answer, without = first_answer(login), refusal(login)
    seen = {"role": login.user, "answer": _shown(answer), "without": without or "logged in"}
    if without is None or answer.request is not None:
        return Observation(Outcome.FAIL, f"'{login.user}' needs no client certificate", seen)
    with tempfile.TemporaryDirectory(prefix="dbsec-") as private:
        certificate, key = target.authority.issue_client(login.user).save(Path(private), "client")
        holding = refusal(login.but(sslcertmode=None, sslcert=certificate, sslkey=key))
    seen["with"] = holding or "logged in"
    if answer.sqlstate == REFUSED_BY_HBA and holding is None:
        return Observation(Outcome.PASS, f"without its certificate '{login.user}' is refused by 28000", seen)
    return Observation(Outcome.ERROR, f"'{login.user}' is refused, but not for a missing certificate", seen)


def _sessions(target: TransitTarget) -> Observation:
    with connect(target.admin()) as admin:
        found = [s for s in facts.sessions(admin) if s.network]
    kinds = Counter((s.user, s.backend, s.tls_version or "in clear") for s in found)
    table = {
        "type": "table",
        "title": "Network sessions by role and protection",
        "columns": ["role", "kind", "protection", "sessions"],
        "rows": [[*kind, count] for kind, count in sorted(kinds.items())],
    }
    in_clear = sum(not s.encrypted for s in found)
    seen = {"sessions": len(found), "in_clear": in_clear}
    if not found:
        return Observation(Outcome.ERROR, "there is no network session to look at", seen)
    if in_clear:
        return Observation(Outcome.FAIL, f"{in_clear} of {len(found)} network sessions are in clear", seen, [table])
    return Observation(Outcome.PASS, f"all {len(found)} network sessions are encrypted", seen, [table])


def first_answer(login: Conninfo, *, tls: bool = True) -> Reply:
    """Begin a login, and return what the server says first."""
    how = Tls(login.host) if tls else None
    return probe.login_reply(login.address, login.port, user=login.user, dbname=login.dbname, tls=how)


def _shown(reply: Reply) -> Mapping[str, Any]:
    asked = reply.request.name.lower() if reply.request is not None else None
    return {"request": asked, "sqlstate": reply.sqlstate, "message": reply.message}

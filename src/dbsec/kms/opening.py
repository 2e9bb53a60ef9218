"""Opens the KEK that a URI names: finds the scheme by its file, and guards what it gives."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial

from dbsec import discovery
from dbsec.clock import SYSTEM, Clock
from dbsec.errors import ConfigError, ProgramMissing
from dbsec.kms import schemes
from dbsec.kms.guarded import Breaker, Guarded
from dbsec.kms.port import PATIENCE, Kms, KmsAdmin, Patience
from dbsec.kms.schemes import Opening, Scheme
from dbsec.kms.template import Template
from dbsec.kms.uri import TENANT, of_tenant, split

_ALIASES = {"file": "file-kek"}


def open_kms(uri: str, *, environ: Mapping[str, str], clock: Clock = SYSTEM, patience: Patience = PATIENCE) -> Kms:
    """Open a KEK for wrapping; nothing is asked of a server before the first call.

    With ``{tenant}`` in the uri, each call takes the KEK of its ``aad["tenant"]``; all share one circuit breaker.
    Errors: ``ConfigError`` for the uri, ``ProgramMissing`` for an SDK that is not installed.
    """
    breaker = Breaker(patience, clock)
    opened = partial(_guarded, uri, environ, clock, patience, breaker)
    if TENANT not in uri:
        return opened("")
    scheme_of(split(uri).scheme)
    return Template(opened)


def _guarded(
    uri: str, environ: Mapping[str, str], clock: Clock, patience: Patience, breaker: Breaker, tenant: str
) -> Kms:
    opening = _opening(uri, tenant, environ, clock, patience)
    return Guarded(scheme_of(opening.uri.scheme).open(opening), patience, clock, breaker=breaker)


def open_admin(uri: str, *, environ: Mapping[str, str], tenant: str = "", clock: Clock = SYSTEM) -> KmsAdmin:
    """Open a KEK for its administrator; ``tenant`` fills a template.

    Errors: ``ConfigError`` for the uri, ``ProgramMissing`` for an SDK that is not installed.
    """
    opening = _opening(uri, tenant, environ, clock, PATIENCE)
    return scheme_of(opening.uri.scheme).open_admin(opening)


def _opening(uri: str, tenant: str, environ: Mapping[str, str], clock: Clock, patience: Patience) -> Opening:
    if bool(tenant) != (TENANT in uri):
        raise ConfigError(f"a KMS uri with '{TENANT}' takes a tenant, and no other does")
    return Opening(split(of_tenant(uri, tenant) if tenant else uri), environ, clock, patience)


def scheme_of(name: str) -> Scheme:
    """Import the file of a scheme. Errors: ``ConfigError`` for an unknown one, ``ProgramMissing`` for its SDK."""
    known = {found.replace("_", "-") for found in discovery.names_in(schemes)}
    name = _ALIASES.get(name, name)
    if name not in known:
        raise ConfigError(f"no KMS has the scheme '{name}'", hint=f"known are {', '.join(sorted(known))}")
    try:
        module = importlib.import_module(f"{schemes.__name__}.{name.replace('-', '_')}")
    except ModuleNotFoundError as exc:
        sdk = (exc.name or "").partition(".")[0]
        if sdk == "dbsec":
            raise
        # the extra bears the first word of the scheme
        hint = f"pip install 'dbsec[{name.partition('-')[0]}]'"
        raise ProgramMissing(f"'{name}:' needs the module '{sdk}', which is not installed", hint=hint) from exc
    scheme: Scheme = module.SCHEME
    return scheme

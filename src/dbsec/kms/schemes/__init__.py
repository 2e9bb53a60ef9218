"""One file a scheme, found by its name; its ``SCHEME`` opens a KEK. It is imported, with its SDK, when opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dbsec.clock import SYSTEM, Clock
from dbsec.kms.port import PATIENCE, Kms, KmsAdmin, Patience
from dbsec.kms.uri import KmsUri
from dbsec.secret import Secret


@dataclass(frozen=True, slots=True)
class Opening:
    """What a scheme opens a KEK with."""

    uri: KmsUri
    environ: Mapping[str, str] = field(repr=False)
    clock: Clock = SYSTEM
    patience: Patience = PATIENCE

    def secret(self, name: str) -> Secret:
        """Resolve the reference in a parameter of the uri."""
        return self.uri.secret(name, environ=self.environ)


@dataclass(frozen=True, slots=True)
class Scheme:
    """``open`` and ``open_admin`` check what the uri says and ask no server: that is for the first call.

    A KEK that is not there is ``KmsRefused`` from that call, a server that is away ``KmsUnavailable``.
    """

    name: str
    open: Callable[[Opening], Kms]
    open_admin: Callable[[Opening], KmsAdmin]

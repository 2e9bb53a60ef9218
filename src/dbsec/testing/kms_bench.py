"""What the claims about a KMS are tried on: a provider opened, and KEKs of tenants made for one claim."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from dbsec.kms import Aad, Kms, KmsAdmin, KmsRefused, Patience, open_admin, open_kms
from dbsec.kms.uri import of_tenant

_QUICK = Patience(timeout_s=1.0, within_s=0.5, failures=1000)


@dataclass(frozen=True)
class Provider:
    """What the suite is given: ``template`` is a uri with ``{tenant}`` in it.

    ``secrets`` must appear nowhere. ``admin`` makes an administrator for a tenant, by ``open_admin`` where it is left
    out. ``away`` takes the server away while its block runs. ``every`` flips only each n-th bit, for a slow server.
    ``lacks`` names the claims that do not apply, each with the reason.
    """

    template: str
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    admin: Callable[[str], KmsAdmin] | None = None
    away: Callable[[], AbstractContextManager[None]] | None = None
    every: int = 1
    lacks: Mapping[str, str] = field(default_factory=dict)


class Bench:
    """A provider opened, with KEKs for the tenants of one claim."""

    def __init__(self, provider: Provider, *, patience: Patience = _QUICK) -> None:
        self.provider = provider
        self.kms = open_kms(provider.template, environ=provider.environ, patience=patience)
        self.shown: list[object] = [self.kms]

    def admin(self, tenant: str) -> KmsAdmin:
        """Return the administrator of a tenant's KEK."""
        made = self.provider.admin or (
            lambda name: open_admin(self.provider.template, environ=self.provider.environ, tenant=name)
        )
        admin = made(tenant)
        self.shown.append(admin)
        return admin

    def tenant(self) -> tuple[str, KmsAdmin]:
        """Make a KEK for a new tenant."""
        name = f"t-{secrets.token_hex(6)}"
        admin = self.admin(name)
        admin.create()
        return name, admin

    def alone(self, tenant: str) -> Kms:
        """Open the KEK of a tenant by a uri that is no template."""
        uri = of_tenant(self.provider.template, tenant)
        return open_kms(uri, environ=self.provider.environ, patience=_QUICK)

    def refusal(self, what: str, act: Callable[[], object]) -> Iterator[str]:
        """Yield what is wrong unless ``act`` is refused."""
        try:
            act()
        except KmsRefused as exc:
            self.shown.append(exc)
        except Exception as exc:  # noqa: BLE001 whatever else it raises is what is wrong
            yield f"{what}: {type(exc).__name__} instead of KmsRefused: {exc}"
        else:
            yield f"{what}: not refused"


def aad_of(tenant: str, **other: str) -> Aad:
    """Return an AAD as the keyring makes it."""
    return {
        "dbsec": "keyring/1",
        "tenant": tenant,
        "context": "app.users",
        "purpose": "data",
        "generation": "1",
        **other,
    }


def leaks(hidden: Sequence[str], shown: Sequence[object]) -> Iterator[str]:
    for one in shown:
        for text in (repr(one), str(one), *_chain(one)):
            if any(secret in text for secret in hidden if secret):
                yield f"{type(one).__name__} shows a secret"


def _chain(exc: object) -> Iterator[str]:
    """Yield the texts of an error's hint and of what caused it."""
    while isinstance(exc, BaseException):
        yield f"{exc!r} {exc} {getattr(exc, 'hint', '')}"
        exc = exc.__cause__ or exc.__context__

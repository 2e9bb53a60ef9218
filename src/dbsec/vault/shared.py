"""One client for all who ask the same server with the same credential: a thousand tenants' KEKs log in once."""

from __future__ import annotations

from collections.abc import Hashable
from weakref import WeakValueDictionary

from dbsec.vault.auth import Auth
from dbsec.vault.client import Vault
from dbsec.vault.settings import Settings

_clients: WeakValueDictionary[tuple[Settings, Hashable], Vault] = WeakValueDictionary()


def shared(settings: Settings, auth: Auth) -> Vault:
    """Return the client for a server and a credential; it goes when the last who holds it goes."""
    key = (settings, auth.key)
    return _clients.get(key) or _clients.setdefault(key, Vault(settings, auth))

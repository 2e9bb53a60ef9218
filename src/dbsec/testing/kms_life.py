"""What holds of every KMS over the life of a KEK: made, rotated, disabled, destroyed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

from dbsec.kms import KekState, KmsRefused
from dbsec.testing.kms_bench import Bench, aad_of


def rotation(bench: Bench) -> Iterator[str]:
    """After a rotation the old wrap opens, and its rewrap opens the same DEK under the newest version."""
    tenant, admin = bench.tenant()
    aad, dek = aad_of(tenant), os.urandom(32)
    old, before = bench.kms.wrap(dek, aad), bench.kms.describe(aad).version
    if admin.rotate().version == before or bench.kms.describe(aad).version == before:
        yield f"the version is still {before}"
    new = bench.kms.rewrap(old, aad)
    if new == old:
        yield "rewrap gives the old wrap"
    for what, wrapped in {"the old wrap": old, "its rewrap": new, "a new wrap": bench.kms.wrap(dek, aad)}.items():
        if bench.kms.unwrap(wrapped, aad) != dek:
            yield f"{what} opens another DEK"


def disabled(bench: Bench) -> Iterator[str]:
    """A disabled KEK refuses everything, says so, and takes up its work when it is enabled."""
    tenant, admin = bench.tenant()
    aad, dek = aad_of(tenant), os.urandom(32)
    wrapped = bench.kms.wrap(dek, aad)
    admin.disable()
    yield from bench.refusal("wrap", lambda: bench.kms.wrap(dek, aad))
    yield from bench.refusal("unwrap", lambda: bench.kms.unwrap(wrapped, aad))
    yield from bench.refusal("rewrap", lambda: bench.kms.rewrap(wrapped, aad))
    if bench.kms.describe(aad).state is not KekState.DISABLED:
        yield f"its state is {bench.kms.describe(aad).state}"
    admin.enable()
    if bench.kms.unwrap(wrapped, aad) != dek:
        yield "it does not open after it was enabled again"


def destroyed(bench: Bench) -> Iterator[str]:
    """A destroyed KEK refuses everything, each of its versions; and it is destroyed only once."""
    tenant, admin = bench.tenant()
    aad, dek = aad_of(tenant), os.urandom(32)
    old = bench.kms.wrap(dek, aad)
    admin.rotate()
    new = bench.kms.wrap(dek, aad)
    if not admin.destroy().note:
        yield "its note does not say what is left"
    for what, wrapped in {"an old": old, "a new": new}.items():
        yield from bench.refusal(f"unwrap of {what} wrap", lambda wrapped=wrapped: bench.kms.unwrap(wrapped, aad))  # type: ignore[misc]
    yield from bench.refusal("wrap", lambda: bench.kms.wrap(dek, aad))
    yield from bench.refusal("unwrap by one that opens it now", lambda: bench.alone(tenant).unwrap(new, aad))
    yield from bench.refusal("rotate", admin.rotate)
    yield from bench.refusal("destroy", admin.destroy)
    try:
        state = bench.kms.describe(aad).state
    except KmsRefused:
        return
    if state not in (KekState.DESTROYED, KekState.PENDING_DESTRUCTION):
        yield f"its state is {state}"


def absent(bench: Bench) -> Iterator[str]:
    """A KEK that was never made is refused, and is not made by using it; one that is there is not made again."""
    tenant = f"t-{secrets.token_hex(6)}"
    for what in ("wrap", "wrap once more"):
        yield from bench.refusal(what, lambda: bench.kms.wrap(os.urandom(32), aad_of(tenant)))
    yield from bench.refusal("describe", lambda: bench.kms.describe(aad_of(tenant)))
    yield from bench.refusal("rotate", bench.admin(tenant).rotate)
    _, admin = bench.tenant()
    yield from bench.refusal("create where it is there", admin.create)

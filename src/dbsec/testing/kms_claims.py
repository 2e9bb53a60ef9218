"""What holds of every KMS while a KEK lives: its binding, its tenants, its threads, its silence."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from dbsec.kms import KekState, KmsError, KmsRefused, KmsUnavailable, rewrap_many, unwrap_many, wrap_many
from dbsec.shares import Fork
from dbsec.testing.kms_bench import Bench, aad_of, leaks

_THREADS = 4


def round_trip(bench: Bench) -> Iterator[str]:
    """DEKs of each length come back as a bytearray, and no two wraps are alike."""
    tenant, _ = bench.tenant()
    for size in (16, 32, 64):
        dek = os.urandom(size)
        first, second = (bench.kms.wrap(dek, aad_of(tenant)) for _ in range(2))
        if first == second:
            yield f"{size} bytes: two wraps are alike"
        if dek in first:
            yield f"{size} bytes: the DEK stands in its wrap"
        for wrapped in (first, second):
            back = bench.kms.unwrap(wrapped, aad_of(tenant))
            if not isinstance(back, bytearray) or back != dek:
                yield f"{size} bytes: unwrap gives another DEK, or no bytearray"


def wrong_aad(bench: Bench) -> Iterator[str]:
    """A DEK opens under its own AAD only."""
    tenant, _ = bench.tenant()
    aad = aad_of(tenant)
    wrapped = bench.kms.wrap(os.urandom(32), aad)
    others = {
        "another value": {**aad, "context": "app.orders"},
        "a value prefixed": {**aad, "generation": "11"},
        "a pair more": {**aad, "row": "1"},
        "a pair less": {name: value for name, value in aad.items() if name != "purpose"},
        "values swapped": {**aad, "context": aad["purpose"], "purpose": aad["context"]},
        "a name in another case": {**{n: v for n, v in aad.items() if n != "context"}, "Context": aad["context"]},
        "the bytes cut elsewhere": {**{n: v for n, v in aad.items() if n != "context"}, "contextapp": ".users"},
    }
    for what, other in others.items():
        yield from bench.refusal(f"unwrap with {what}", lambda other=other: bench.kms.unwrap(wrapped, other))  # type: ignore[misc]
        yield from bench.refusal(f"rewrap with {what}", lambda other=other: bench.kms.rewrap(wrapped, other))  # type: ignore[misc]


def flipped_bits(bench: Bench) -> Iterator[str]:
    """No bit of a wrapped DEK can be turned."""
    tenant, _ = bench.tenant()
    aad = aad_of(tenant)
    wrapped = bench.kms.wrap(os.urandom(32), aad)
    for bit in range(0, 8 * len(wrapped), bench.provider.every):
        turned = bytearray(wrapped)
        turned[bit // 8] ^= 1 << bit % 8
        yield from bench.refusal(f"bit {bit}", lambda turned=bytes(turned): bench.kms.unwrap(turned, aad))  # type: ignore[misc]


def truncation(bench: Bench) -> Iterator[str]:
    """Nothing shorter or longer opens."""
    tenant, _ = bench.tenant()
    aad = aad_of(tenant)
    wrapped = bench.kms.wrap(os.urandom(32), aad)
    for size in range(0, len(wrapped), max(1, bench.provider.every // 8)):
        yield from bench.refusal(f"cut to {size}", lambda size=size: bench.kms.unwrap(wrapped[:size], aad))  # type: ignore[misc]
    for more in (b"\0", b"=", b"\n", wrapped):
        yield from bench.refusal("with more after it", lambda more=more: bench.kms.unwrap(wrapped + more, aad))  # type: ignore[misc]


def tenants(bench: Bench) -> Iterator[str]:
    """The wraps of a tenant open by no other tenant's KEK, whatever the AAD says."""
    (mine, _), (other, _) = bench.tenant(), bench.tenant()
    wrapped = bench.kms.wrap(os.urandom(32), aad_of(mine))
    yield from bench.refusal("the AAD of another", lambda: bench.kms.unwrap(wrapped, aad_of(other)))
    yield from bench.refusal("the KEK of another", lambda: bench.alone(other).unwrap(wrapped, aad_of(mine)))
    yield from bench.refusal("rewrap for another", lambda: bench.alone(other).rewrap(wrapped, aad_of(mine)))
    names = {bench.kms.describe(aad_of(tenant)).kek for tenant in (mine, other)}
    if len(names) < 2:
        yield "two KEKs have one public name"


def many(bench: Bench) -> Iterator[str]:
    """Of many DEKs of several tenants each has its own result, a refusal too."""
    (mine, _), (other, _) = bench.tenant(), bench.tenant()
    deks = [os.urandom(32) for _ in range(6)]
    aads = [aad_of((mine, other)[at % 2], generation=str(at)) for at in range(6)]
    wrapped = wrap_many(bench.kms, list(zip(deks, aads, strict=True)))
    items = [(one, aad) for one, aad in zip(wrapped, aads, strict=True) if isinstance(one, bytes)]
    if len(items) < len(deks):
        yield f"wrap: {next(one for one in wrapped if isinstance(one, KmsError))}"
        return
    items[3] = (items[3][0], aads[5])
    rewrapped = rewrap_many(bench.kms, items)
    opened = [
        again if isinstance(again, KmsError) else bench.kms.unwrap(again, aad)
        for again, (_, aad) in zip(rewrapped, items, strict=True)
    ]
    for what, results in {"unwrap": unwrap_many(bench.kms, items), "rewrap": opened}.items():
        for at, result in enumerate(results):
            if at == 3 and not isinstance(result, KmsRefused):
                yield f"{what} of a wrong one: {type(result).__name__} instead of KmsRefused"
            if at != 3 and (isinstance(result, KmsError) or bytes(result) != deks[at]):
                yield f"{what} {at}: {'another DEK' if isinstance(result, bytearray) else result}"
    if unwrap_many(bench.kms, []) != [] or rewrap_many(bench.kms, []) != [] or wrap_many(bench.kms, []) != []:
        yield "of none there is something"


def threads(bench: Bench) -> Iterator[str]:
    """Threads that share a KMS get their own DEKs."""
    names = [bench.tenant()[0] for _ in range(2)]

    def work(at: int) -> bool:
        aad, dek = aad_of(names[at % 2], generation=str(at)), os.urandom(32)
        return bench.kms.unwrap(bench.kms.rewrap(bench.kms.wrap(dek, aad), aad), aad) == dek

    with ThreadPoolExecutor(_THREADS) as pool:
        if not all(pool.map(work, range(6 * _THREADS))):
            yield "a DEK of another thread"


def fork(bench: Bench) -> Iterator[str]:
    """A child of a fork opens what its parent wrapped, and the parent goes on."""
    tenant, _ = bench.tenant()
    aad, dek = aad_of(tenant), os.urandom(32)
    wrapped = bench.kms.wrap(dek, aad)
    children = [Fork(lambda: bytes(bench.kms.unwrap(wrapped, aad)) + bench.kms.wrap(dek, aad)) for _ in range(2)]
    if bench.kms.unwrap(wrapped, aad) != dek:
        yield "the parent opens another DEK"
    for told in [child.result() for child in children]:
        if told is None or told[:32] != dek:
            yield "a child does not open it"
        elif bench.kms.unwrap(told[32:], aad) != dek:
            yield "what a child wrapped opens another DEK"


def described(bench: Bench) -> Iterator[str]:
    """A description names the KEK alike for everybody who opens it, and tells nothing secret."""
    tenant, _ = bench.tenant()
    aad = aad_of(tenant)
    seen, again = bench.kms.describe(aad), bench.alone(tenant).describe()
    if seen != again:
        yield f"two looks differ: {seen} and {again}"
    if not seen.kek.startswith(f"{seen.scheme}:") or seen.state is not KekState.ENABLED or not seen.version:
        yield f"name, state or version is not what it should be: {seen}"
    if seen.protection not in ("file", "software", "hsm"):
        yield f"protection is '{seen.protection}'"
    yield from leaks(bench.provider.secrets, [seen])


def silent(bench: Bench) -> Iterator[str]:
    """Neither a repr nor an error shows a DEK, a credential, or what is wrapped."""
    tenant, admin = bench.tenant()
    aad, dek = aad_of(tenant), os.urandom(32)
    wrapped = bench.kms.wrap(dek, aad)
    turned = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
    wrong: list[str] = []
    wrong += bench.refusal("an altered wrap", lambda: bench.kms.unwrap(turned, aad))
    wrong += bench.refusal("another AAD", lambda: bench.kms.unwrap(wrapped, aad_of(tenant, purpose="lookup")))
    wrong += bench.refusal("create again", admin.create)
    admin.disable()
    wrong += bench.refusal("wrap while disabled", lambda: bench.kms.wrap(dek, aad))
    yield from wrong
    hidden = [dek, wrapped, turned]
    spelled = [form for raw in hidden for form in (repr(raw)[2:-1], raw.hex(), base64.b64encode(raw).decode())]
    yield from leaks([*bench.provider.secrets, *spelled], bench.shown)


def away(bench: Bench) -> Iterator[str]:
    """A server that is away is ``KmsUnavailable`` with its name in the text; afterwards all is as before."""
    assert bench.provider.away is not None, "a provider gives 'away', or says in 'lacks' why not"
    tenant, _ = bench.tenant()
    aad, dek = aad_of(tenant), os.urandom(32)
    wrapped = bench.kms.wrap(dek, aad)
    first_call = bench.alone(tenant)
    acts: dict[str, Callable[[], object]] = {
        "wrap": lambda: bench.kms.wrap(dek, aad),
        "unwrap": lambda: bench.kms.unwrap(wrapped, aad),
        "describe": lambda: bench.kms.describe(aad),
        "the first call": lambda: first_call.unwrap(wrapped, aad),
    }
    with bench.provider.away():
        for what, act in acts.items():
            try:
                act()
            except KmsUnavailable as exc:
                bench.shown.append(exc)
                if len(exc.message) < 40:
                    yield f"{what}: '{exc}' does not say enough"
            except Exception as exc:  # noqa: BLE001 whatever else it raises is what is wrong
                yield f"{what}: {type(exc).__name__} instead of KmsUnavailable: {exc}"
            else:
                yield f"{what}: not refused"
        if not all(isinstance(one, KmsUnavailable) for one in unwrap_many(bench.kms, [(wrapped, aad)] * 3)):
            yield "unwrap_many: not unavailable"
    for kms in (bench.kms, first_call):
        if kms.unwrap(wrapped, aad) != dek:
            yield "it does not open when the server is back"
    yield from leaks(bench.provider.secrets, bench.shown)

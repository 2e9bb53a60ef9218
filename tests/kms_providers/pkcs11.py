"""What the contract of a KMS needs of PKCS#11: a token of SoftHSM, and its folder to be moved away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbsec.testing.kms import Provider


def provider(request: pytest.FixtureRequest, folder: Path) -> Provider:
    softhsm = request.getfixturevalue("softhsm")

    @contextlib.contextmanager
    def away() -> Iterator[None]:
        gone = softhsm.tokens.rename(softhsm.tokens.with_name("gone"))
        try:
            yield
        finally:
            gone.rename(softhsm.tokens)

    return Provider(softhsm.uri("kek-{tenant}"), secrets=(softhsm.pin,), away=away)

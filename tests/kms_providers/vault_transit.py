"""What the contract of a KMS needs of vault-transit: a real OpenBao, which is stopped in its tracks to be away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.openbao import OpenBao

from dbsec.testing.kms import Provider


def provider(request: pytest.FixtureRequest, folder: Path) -> Provider:
    openbao: OpenBao = request.getfixturevalue("openbao")

    @contextlib.contextmanager
    def away() -> Iterator[None]:
        openbao.pause()
        try:
            yield
        finally:
            openbao.resume()

    token = openbao.token_file.read_text().strip()
    return Provider(openbao.uri("{tenant}"), secrets=(token,), away=away)

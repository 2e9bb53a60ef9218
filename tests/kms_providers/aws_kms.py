"""What the contract of a KMS needs of aws-kms: moto's server, which gives the shapes of AWS and refuses less."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.moto import Moto

from dbsec.testing.kms import Provider

_SECRET = "the-secret-key-of-a-test"


def provider(request: pytest.FixtureRequest, folder: Path) -> Provider:
    moto: Moto = request.getfixturevalue("moto")

    @contextlib.contextmanager
    def away() -> Iterator[None]:
        moto.pause()
        try:
            yield
        finally:
            moto.resume()

    return Provider(
        f"aws-kms://eu-central-1/alias/{{tenant}}?endpoint={moto.address}",
        environ={"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": _SECRET},
        secrets=(_SECRET,),
        away=away,
        every=5,
        lacks={
            "disabled": "moto: a disabled key still wraps and unwraps",
            "destroyed": "moto: a key that is pending deletion still wraps and unwraps",
            "wrong_aad": "moto: joins the pairs of a context without a mark between, so two of them can read alike",
            "tenants": "moto: ReEncrypt does not look at SourceKeyId",
            "silent": "moto: a disabled key still wraps, so there is no such refusal to look at",
        },
    )

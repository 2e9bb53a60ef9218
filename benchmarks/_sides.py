"""One side of benchmarks/crypto.py: what encrypts in one environment, timed in there and asked over a pipe.

Run as a program it needs the standard library and the peer alone: ``python _sides.py tink``. Each line of stdin asks
``[name, act, bytes, times]`` and is answered by ``[nanoseconds, times, bytes of one ciphertext]``.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from functools import cache
from itertools import repeat
from typing import Any, NamedTuple

AAD = b"app.users.phone/tenant-0042/row-00000000001234"  # where a peer takes one: as long as ours
Act = Callable[[int], Any]


class Way(NamedTuple):
    """How values of one size are encrypted: ``n`` of them, which is a multiple of ``step``."""

    encrypt: Act
    decrypt: Act
    bytes_made: int
    step: int = 1


Make = Callable[[int], Way]  # of the bytes of a plaintext


def one_by_one(encrypt: Callable[[Any], Any], decrypt: Callable[[Any], Any], plain: Any) -> Way:
    """Call with one value at a time from a loop, as an application does."""
    encrypted = encrypt(plain)
    if decrypt(encrypted) != plain:
        raise SystemExit(f"{encrypt} does not come back")

    def encrypt_n(n: int) -> None:
        for _ in repeat(None, n):
            encrypt(plain)

    def decrypt_n(n: int) -> None:
        for _ in repeat(None, n):
            decrypt(encrypted)

    return Way(encrypt_n, decrypt_n, len(encrypted))


class Asked:
    """Times the ways of one environment; each is made when it is first asked for."""

    def __init__(self, makes: dict[str, Make]) -> None:
        self.names = list(makes)
        self._way = cache(lambda name, size: makes[name](size))

    def ask(self, name: str, act: str, size: int, times: int) -> tuple[int, int, int]:
        """Return nanoseconds, how many values they were for, and the bytes of one ciphertext."""
        way: Way = self._way(name, size)
        run = way.encrypt if act == "encrypt" else way.decrypt
        times = max(1, times // way.step) * way.step
        gc.disable()  # as timeit does
        try:
            start = time.perf_counter_ns()
            run(times)
            return time.perf_counter_ns() - start, times, way.bytes_made
        finally:
            gc.enable()


def tink() -> dict[str, Make]:
    """Make Tink's AEAD: under a key in memory, and as an envelope (a DEK each value) without a network."""
    import tink
    from tink import aead

    aead.register()
    template = aead.aead_key_templates.AES256_GCM
    local = tink.new_keyset_handle(template).primitive(aead.Aead)
    envelope = aead.KmsEnvelopeAead(template, local)

    def made(primitive: Any) -> Make:
        def make(size: int) -> Way:
            return one_by_one(lambda v: primitive.encrypt(v, AAD), lambda v: primitive.decrypt(v, AAD), bytes(size))

        return make

    return {"tink AES256_GCM": made(local), "tink envelope, local KEK": made(envelope)}


def sqlalchemy_utils() -> dict[str, Make]:
    """Make the type as a column uses it, with its default engine and with GCM."""
    from sqlalchemy import String
    from sqlalchemy.dialects.postgresql import dialect
    from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine, AesGcmEngine, StringEncryptedType

    def made(engine: Any, padding: str | None) -> Make:
        kind = StringEncryptedType(String, "a key of the benchmark", engine, padding)
        pg = dialect()
        bind = lambda v: kind.process_bind_param(v, pg)  # noqa: E731
        read = lambda v: kind.process_result_value(v, pg)  # noqa: E731
        return lambda size: one_by_one(bind, read, "x" * size)

    return {
        "SQLAlchemy-Utils AES-CBC": made(AesEngine, "pkcs5"),
        "SQLAlchemy-Utils AES-GCM": made(AesGcmEngine, None),
    }


def aws_encryption_sdk() -> dict[str, Make]:
    """Make the SDK's two ways without a network: cached materials (the fastest), and the raw AES keyring."""
    import aws_encryption_sdk as sdk
    from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
    from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
    from aws_cryptographic_material_providers.mpl.models import AesWrappingAlg, CreateRawAesKeyringInput
    from aws_encryption_sdk.identifiers import Algorithm, EncryptionKeyType, WrappingAlgorithm
    from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
    from aws_encryption_sdk.key_providers.raw import RawMasterKeyProvider

    key = bytes(range(32))

    class Local(RawMasterKeyProvider):
        provider_id = "bench"

        def _get_raw_key(self, _: bytes) -> WrappingKey:
            algorithm = WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING
            return WrappingKey(algorithm, key, EncryptionKeyType.SYMMETRIC)

    local = Local()
    local.add_master_key("kek")
    cached = sdk.CachingCryptoMaterialsManager(
        master_key_provider=local, cache=sdk.LocalCryptoMaterialsCache(100), max_age=3600.0
    )
    providers = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
    keyring = providers.create_raw_aes_keyring(
        input=CreateRawAesKeyringInput(
            key_namespace="bench",
            key_name="kek",
            wrapping_key=key,
            wrapping_alg=AesWrappingAlg.ALG_AES256_GCM_IV12_TAG16,
        )
    )
    client = sdk.EncryptionSDKClient()
    asked = {
        "encryption_context": {"tenant": "tenant-0042", "field": "app.users.phone"},
        "algorithm": Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
    }

    def made(**materials: Any) -> Make:
        def encrypt(value: bytes) -> bytes:
            return client.encrypt(source=value, **asked, **materials)[0]

        def decrypt(value: bytes) -> bytes:
            return client.decrypt(source=value, **materials)[0]

        return lambda size: one_by_one(encrypt, decrypt, bytes(size))

    return {
        "aws-encryption-sdk, cached materials": made(materials_manager=cached),
        "aws-encryption-sdk, raw AES keyring": made(keyring=keyring),
    }


SIDES: dict[str, Callable[[], dict[str, Make]]] = {
    "tink": tink,
    "sqlalchemy-utils": sqlalchemy_utils,
    "aws-encryption-sdk": aws_encryption_sdk,
}


def main() -> None:
    """Answer until stdin ends."""
    asked = Asked(SIDES[sys.argv[1]]())
    print(json.dumps(asked.names), flush=True)
    for line in sys.stdin:
        print(json.dumps(asked.ask(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()

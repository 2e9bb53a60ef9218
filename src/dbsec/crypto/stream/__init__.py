"""Files and large objects under one key: frames of AES-256-GCM in order, whose end is proven.

``encrypt_stream`` and ``decrypt_stream`` copy from one binary file to another, ``Encryptor`` and ``Decryptor`` take
pieces of any size, ``StreamReader`` reads out of order. docs/formats.md has the format.
"""

from __future__ import annotations

from dbsec.crypto.stream.copying import decrypt_file, decrypt_stream, encrypt_file, encrypt_stream, read_prelude
from dbsec.crypto.stream.format import FRAME_BYTES, Prelude
from dbsec.crypto.stream.keys import StreamKey, stream_key, stream_keys
from dbsec.crypto.stream.pieces import Counts, Decryptor, Encryptor
from dbsec.crypto.stream.reader import StreamReader

__all__ = [
    "FRAME_BYTES",
    "Counts",
    "Decryptor",
    "Encryptor",
    "Prelude",
    "StreamKey",
    "StreamReader",
    "decrypt_file",
    "decrypt_stream",
    "encrypt_file",
    "encrypt_stream",
    "read_prelude",
    "stream_key",
    "stream_keys",
]

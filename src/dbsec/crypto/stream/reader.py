"""Any part of a stream without the parts before it: by frame, or by offset of the plaintext."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Self

from cryptography.exceptions import InvalidTag

from dbsec.crypto.errors import DecryptionFailed
from dbsec.crypto.stream.format import FrameCipher, Prelude
from dbsec.crypto.stream.pieces import Decryptor, KeyOf
from dbsec.errors import UsageError

Read = Callable[[int, int], bytes]  # offset, size -> bytes: a range request, or a file

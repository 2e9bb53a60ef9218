"""A client of one service: made again in a child and when its credentials were replaced; it does not try twice."""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakValueDictionary

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
)
from botocore.parsers import ResponseParserError

from dbsec.aws.errors import AwsError, AwsRefused, AwsUnavailable
from dbsec.aws.quiet import keep_plaintext_out_of_logs
from dbsec.aws.settings import Settings
from dbsec.errors import reason

_LATER = {
    *("ThrottlingException", "Throttling", "RequestLimitExceeded", "TooManyRequestsException", "InternalFailure"),
    *("KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException", "ServiceUnavailable"),
    *("InternalError", "InternalServiceError", "RequestTimeout", "RequestTimeoutException"),
}
_OLD_CREDENTIALS = {
    *("ExpiredTokenException", "ExpiredToken", "UnrecognizedClientException", "InvalidClientTokenId"),
    *("InvalidSignatureException", "SignatureDoesNotMatch", "InvalidAccessKeyId"),
}
_UNANSWERED = (
    *(ConnectionError, HTTPClientError, ResponseParserError),
    *(CredentialRetrievalError, MetadataRetrievalError),
)
_CONNECTIONS = 16
_MAKING = threading.RLock()  # boto3's sessions are not for several threads


class Aws:
    """One service of one region; safe in threads, and after a fork each process has its own connections."""

    def __init__(self, service: str, settings: Settings) -> None:
        self._service = service
        self._settings = settings
        self._made: tuple[int, Any] | None = None

    def __repr__(self) -> str:
        return f"<AWS {self._service} in {self._settings.region}>"

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call an operation by its name in boto3, as ``describe_key``.

        Errors: ``AwsUnavailable``, ``AwsRefused``.
        """
        client = self._client()
        try:
            return self._asked(client, operation, parameters)
        except AwsRefused as exc:
            if exc.code not in _OLD_CREDENTIALS or self._settings.keys() is None:
                raise
        self._forget(client)
        return self._asked(self._client(), operation, parameters)

    def _asked(self, client: Any, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        failed: AwsError
        try:
            answer: dict[str, Any] = getattr(client, operation)(**parameters)
        except ClientError as exc:
            failed = self._of_answer(exc, operation)
        except (BotoCoreError, ResponseParserError) as exc:
            failed = self._of_failure(exc, operation)
        else:
            return answer
        raise failed  # and not from exc: that one holds the request, and so key and signature

    def _of_answer(self, exc: ClientError, operation: str) -> AwsError:
        error, meta = exc.response.get("Error", {}), exc.response.get("ResponseMetadata", {})
        code, answer = str(error.get("Code", "")), str(error.get("Message", "")).strip()
        said = f"{self._service} in {self._settings.region} answered {operation}: {code} {answer}".rstrip()
        status = int(meta.get("HTTPStatusCode", 0))
        if code in _LATER or status >= 500 or status == 429:
            return AwsUnavailable(said)
        return AwsRefused(said, code=code, answer=f"{code} {answer}".strip())

    def _of_failure(self, exc: Exception, operation: str) -> AwsError:
        where = f"{self._service} in {self._settings.region}"
        if isinstance(exc, _UNANSWERED):
            return AwsUnavailable(f"{where} did not answer {operation}: {reason(exc)}")
        text = f"{where} was not asked to {operation}: {reason(exc)}"
        return AwsRefused(text, code=type(exc).__name__, answer=reason(exc), hint="aws sts get-caller-identity")

    def _client(self) -> Any:
        """Return this process's client; the parent's is left as it is: to close it would end the parent's too."""
        made = self._made
        if made is None or made[0] != os.getpid():
            with _MAKING:
                made = self._made = (os.getpid(), _client(self._service, self._settings))
        return made[1]

    def _forget(self, client: Any) -> None:
        if self._made is not None and self._made[1] is client:
            self._made = None


_clients: WeakValueDictionary[tuple[str, Settings, int], Aws] = WeakValueDictionary()


def shared(service: str, settings: Settings) -> Aws:
    """Return the client for a service and settings; it goes when the last who holds it goes."""
    key = (service, settings, id(settings.environ))
    return _clients.get(key) or _clients.setdefault(key, Aws(service, settings))


def _client(service: str, settings: Settings) -> Any:
    keep_plaintext_out_of_logs()
    keys = settings.keys()
    config = Config(
        connect_timeout=settings.timeout_s,
        read_timeout=settings.timeout_s,
        retries={"total_max_attempts": 1},
        max_pool_connections=_CONNECTIONS,
        use_fips_endpoint=settings.fips,
        ignore_configured_endpoint_urls=True,  # the settings say where, not AWS_ENDPOINT_URL
        proxies={} if settings.endpoint else None,
    )
    session = boto3.Session(
        aws_access_key_id=keys.id if keys else None,
        aws_secret_access_key=keys.secret.reveal() if keys else None,
        aws_session_token=keys.token.reveal() if keys and keys.token else None,
        region_name=settings.region,
    )
    return session.client(
        service,
        endpoint_url=settings.endpoint or None,
        verify=str(settings.ca) if settings.ca else True,
        config=config,
    )

"""One scan of sslyze, in its own environment and without the start of its interpreter; prints one line of JSON."""

from __future__ import annotations

import json
import sys
import time

from sslyze import (
    ProtocolWithOpportunisticTlsEnum,
    ScanCommand,
    Scanner,
    ServerNetworkConfiguration,
    ServerNetworkLocation,
    ServerScanRequest,
)

VERSIONS = {
    ScanCommand.SSL_2_0_CIPHER_SUITES: "SSL 2",
    ScanCommand.SSL_3_0_CIPHER_SUITES: "SSL 3",
    ScanCommand.TLS_1_0_CIPHER_SUITES: "TLS 1.0",
    ScanCommand.TLS_1_1_CIPHER_SUITES: "TLS 1.1",
    ScanCommand.TLS_1_2_CIPHER_SUITES: "TLS 1.2",
    ScanCommand.TLS_1_3_CIPHER_SUITES: "TLS 1.3",
}
# what dbsec's probe looks at beside the suites
BESIDE = {
    ScanCommand.CERTIFICATE_INFO,
    ScanCommand.ELLIPTIC_CURVES,
    ScanCommand.TLS_FALLBACK_SCSV,
    ScanCommand.TLS_EXTENDED_MASTER_SECRET,
    ScanCommand.TLS_COMPRESSION,
}


def main() -> None:
    """Scan ``127.0.0.1:PORT`` and print milliseconds and suites."""
    begun = time.monotonic()
    port = int(sys.argv[1])
    request = ServerScanRequest(
        server_location=ServerNetworkLocation("127.0.0.1", port),
        network_configuration=ServerNetworkConfiguration(
            "127.0.0.1", tls_opportunistic_encryption=ProtocolWithOpportunisticTlsEnum.POSTGRES
        ),
        scan_commands=set(VERSIONS) | BESIDE,
    )
    scanner = Scanner()
    scanner.queue_scans([request])
    (result,) = scanner.get_results()
    suites = [
        (version, one.cipher_suite.name)
        for command, version in VERSIONS.items()
        for one in getattr(result.scan_result, command.value).result.accepted_cipher_suites
    ]
    print(json.dumps({"ms": (time.monotonic() - begun) * 1000, "suites": suites}))


if __name__ == "__main__":
    main()

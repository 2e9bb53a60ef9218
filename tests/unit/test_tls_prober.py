"""The prober against servers that offer what this machine's OpenSSL cannot, and against what is no TLS."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scripted_tls import scripted, server_hello

from dbsec.errors import ConfigError, ConnectError, DbsecError
from dbsec.tls.ca import Authority
from dbsec.tls.prober import Probe, Protocol, judge, policy, probe
from dbsec.tls.prober.certificates import read
from dbsec.tls.prober.greeting import Plaintext, Target
from dbsec.tls.prober.hello import Answer, Offer, client_hello, first_flight
from dbsec.tls.prober.suites import GROUPS, Fault, Version, offered, suite

NOW = datetime(2026, 6, 1, tzinfo=UTC)
# SSL 3 export, NULL and RC4; TLS 1.0 anonymous; TLS 1.2 3DES and GCM; an unassigned code point
OLD = {0x300: [0x0003, 0x0002, 0x0005], 0x301: [0x0034, 0x0009], 0x303: [0xC030, 0x000A, 0x00F5], 0x304: [0x1302]}


def seen_on(port: int) -> Probe:
    return probe(Target("127.0.0.1", port, timeout_s=2.0))


def names(seen: Probe, label: str) -> list[str]:
    return [one.name for one in seen.suites[label]]


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_what_openssl_no_longer_offers_is_found(split):
    with scripted(OLD, split=split) as port:
        seen = seen_on(port)
    assert names(seen, "SSLv3") == [
        "TLS_RSA_EXPORT_WITH_RC4_40_MD5", "TLS_RSA_WITH_NULL_SHA", "TLS_RSA_WITH_RC4_128_SHA",
    ]  # fmt: skip
    assert names(seen, "TLSv1") == ["TLS_DH_anon_WITH_AES_128_CBC_SHA", "TLS_RSA_WITH_DES_CBC_SHA"]
    assert seen.refused == {"TLSv1.1": "alert handshake_failure"}
    assert names(seen, "TLSv1.2")[1:] == ["TLS_RSA_WITH_3DES_EDE_CBC_SHA", "0x00f5"]
    assert names(seen, "TLSv1.3") == ["TLS_AES_256_GCM_SHA384"]
    assert seen.server_orders == {"SSLv3": True, "TLSv1": True, "TLSv1.2": True}
    assert seen.groups == ("x25519",)


def test_each_fault_is_named_and_fails_the_policy():
    with scripted(OLD) as port:
        seen = seen_on(port)
    found = judge(seen, policy("intermediate"), now=NOW)
    told = {one.target.rpartition(" ")[2]: one.message for one in found if one.name == "allow-suite"}
    assert "TLS_RSA_EXPORT_WITH_RC4_40_MD5 (SSLv3)" in told["export"]
    assert "TLS_RSA_WITH_NULL_SHA" in told["null"]
    assert "TLS_DH_anon_WITH_AES_128_CBC_SHA" in told["anonymous"]
    assert "TLS_RSA_WITH_3DES_EDE_CBC_SHA (TLSv1.2)" in told["64-bit-block"]
    assert "0x00f5" in told["unknown"]
    assert told.keys() == {"export", "null", "anonymous", "rc4", "64-bit-block", "unknown"}
    assert {one.target.rpartition(" ")[2] for one in found if one.name == "allow-version"} == {"SSLv3", "TLSv1"}


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", set()),
        ("TLS_AES_128_CCM_8_SHA256", {Fault.SHORT_TAG}),
        ("TLS_SHA256_SHA256", {Fault.NULL}),
        ("TLS_RSA_WITH_AES_128_GCM_SHA256", {Fault.STATIC_KEY}),
        ("TLS_RSA_WITH_NULL_MD5", {Fault.NULL, Fault.MD5, Fault.STATIC_KEY}),
        ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", {Fault.CBC}),
        ("TLS_DHE_PSK_WITH_CHACHA20_POLY1305_SHA256", set()),
        ("TLS_KRB5_EXPORT_WITH_DES_CBC_40_SHA", {Fault.EXPORT, Fault.SMALL_BLOCK, Fault.CBC, Fault.STATIC_KEY}),
        ("TLS_RSA_EXPORT_WITH_RC2_CBC_40_MD5",
         {Fault.EXPORT, Fault.SMALL_BLOCK, Fault.CBC, Fault.STATIC_KEY, Fault.MD5}),
        ("TLS_ECDH_anon_WITH_RC4_128_SHA", {Fault.ANONYMOUS, Fault.RC4}),
        ("TLS_GOSTR341112_256_WITH_KUZNYECHIK_MGM_L", set()),
        ("TLS_AEGIS_256_SHA512", set()),
    ],
)  # fmt: skip
def test_the_faults_of_a_suite_are_read_from_its_name(name, faults):
    code = next(one for version in Version for one in offered(version) if suite(one).name == name)
    assert suite(code).faults == faults


def test_every_suite_is_offered_by_one_kind_of_version():
    old, new = set(offered(Version.TLS_1_2)), set(offered(Version.TLS_1_3))
    assert not old & new
    assert {0x1301, 0x00C6} <= new
    assert len(old) + len(new) >= 361
    assert not {0x00FF, 0x5600} & (old | new)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no TLS record"),
        (b"\x16\x03\x03\x00\x04\x0b\x00\x00\x00", "no ServerHello"),
        (b"\x16\x03\x03\x00\x08\x02\x00\x00\x04\x03\x03\x00\x00", "cut or malformed"),
        (b"\x16\x03\x03\xff\xff" + bytes(65535), "no ServerHello"),
        (server_hello(0x303, 0xFEFE), "was not offered"),
    ],
    ids=["http", "certificate-first", "cut", "zeros", "another-suite"],
)
def test_what_is_no_tls_is_a_clear_error(answer, told):
    with scripted({}, answer=answer) as port, pytest.raises(ConnectError, match=told):
        seen_on(port)


def test_a_flight_without_end_is_given_up():
    record = b"\x16\x03\x03\x40\x00" + b"\x02\xff\xff\xff" + bytes(0x4000 - 4)

    def drip(stream: bytearray, count: int) -> bytes:
        if len(stream) < count:
            stream += record[: 5 + 0x4000]
        part = bytes(stream[:count])
        del stream[:count]
        return part

    stream = bytearray()
    with pytest.raises(ConnectionError, match="first flight"):
        first_flight(lambda count: drip(stream, count))


def test_a_server_that_is_away_or_silent_is_a_clear_error():
    with scripted({}) as port:
        pass
    with pytest.raises(ConnectError, match=r"127\.0\.0\.1"):
        seen_on(port)
    with pytest.raises(ConnectError, match="no answer"):
        probe(Target("127.0.0.1", port, Protocol.AUTO))


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader(answer):
    stream = bytearray(answer)

    def receive(count: int) -> bytes:
        if len(stream) < count:
            raise EOFError
        part = bytes(stream[:count])
        del stream[:count]
        return part

    with contextlib.suppress(ConnectionError):
        assert isinstance(first_flight(receive, whole=True), Answer)


@given(st.sampled_from(list(Version)), st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=400), st.booleans())
def test_lengths_in_a_hello_are_those_of_its_parts(version, suites, fallback):
    record = client_hello(Offer(version, suites, list(GROUPS), "db.example.com", ("postgresql",), fallback))
    assert int.from_bytes(record[3:5]) == len(record) - 5
    assert int.from_bytes(record[6:9]) == len(record) - 9


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("versions = 3", "'versions' is a list"),
        ('versions = ["TLSv9"]\nforbid = []', "'versions' is a list"),
        ('versions = ["TLSv1.3"]\nforbid = ["weak"]', "'forbid' is a list"),
        ('versions = ["TLSv1.3"]\nforbid = []\nrsa_bits = "many"', "'rsa_bits' is a number"),
        ('versions = ["TLSv1.3"]\nforbid = []\nrsabits = 1', "'rsabits' is not a key"),
        ("versions = [", "policy"),
    ],
    ids=["number", "version", "fault", "bits", "key", "toml"],
)
def test_a_wrong_policy_names_its_key(tmp_path: Path, text, told):
    file = tmp_path / "policy.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=told):
        policy(str(file))


def test_a_policy_that_is_not_there_names_those_that_are():
    with pytest.raises(DbsecError, match="no policy 'old'"):
        policy("old")


def bare(**more: object) -> Probe:
    seen = Probe(Target("db.lab", 5432), tls=True, plaintext=Plaintext.REFUSED, plaintext_words="28000")
    return replace(seen, **{"suites": {"TLSv1.3": (suite(0x1302),)}, **more})


def certificate(days: int, *, start_days: int = 0):
    authority = Authority.create("a CA")
    start = NOW + timedelta(days=start_days)
    pair = authority.issue_server(["db.lab"], start=start, lifetime=timedelta(days=days))
    from cryptography.hazmat.primitives.serialization import Encoding

    return read([pair.x509.public_bytes(Encoding.DER)])


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({}, []),
        ({"plaintext": Plaintext.ACCEPTED}, ["allow-plaintext"]),
        ({"plaintext": Plaintext.UNKNOWN}, ["allow-unknown-plaintext"]),
        ({"tls": False}, ["allow-no-tls"]),
        ({"suites": {"TLSv1.1": (suite(0xC030),)}}, ["allow-version", "allow-none-of-policy"]),
        ({"groups": ("secp192r1",)}, ["allow-weak-group"]),
        ({"dh_bits": 1024}, ["allow-short-prime"]),
        ({"compresses": True}, ["allow-compression"]),
        ({"extended_master_secret": False}, ["allow-no-master-secret"]),
        ({"chain": certificate(90)}, []),
        ({"chain": certificate(5)}, ["allow-dates"]),
        ({"chain": certificate(90, start_days=-91)}, ["allow-dates"]),
        ({"chain": certificate(90, start_days=3)}, ["allow-dates"]),
        ({"chain": (replace(certificate(90)[0], key_kind="rsa", key_bits=1024),)}, ["allow-short-key"]),
        ({"chain": (replace(certificate(90)[0], signed_with="sha1"),)}, ["allow-weak-signature"]),
        ({"chain": (replace(certificate(90)[0], names=()),)}, ["allow-no-names"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "seen",
)
def test_each_check_finds_what_it_is_for_and_nothing_else(more, names):
    found = judge(bare(**more), policy("intermediate"), now=NOW)
    assert [one.name for one in found] == names
    assert all(one.fix and one.code.startswith("TLS1") for one in found)


def test_json_holds_all_of_it():
    with scripted(OLD) as port:
        told = json.loads(json.dumps(seen_on(port).to_json(), default=str))
    assert told["suites"]["TLSv1.3"] == [{"code": "0x1302", "name": "TLS_AES_256_GCM_SHA384", "faults": []}]
    assert told["protocol"] == "postgres"

"""The URI of a KEK: what is refused, by name and without showing a credential; templates; AAD bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbsec import discovery
from dbsec.errors import ConfigError, ProgramMissing, UsageError
from dbsec.kms import KmsRefused, Patience, aad_bytes, open_admin, open_kms
from dbsec.kms.template import Template
from dbsec.kms.uri import of_tenant, split

SECRET = "hunter2-hunter2"


def test_it_is_taken_apart():
    uri = split("vault-transit://bao.local:8200/transit/dbsec?ca=%2Fetc%2Fca.pem&token=file:/run/a+b=c")
    assert (uri.scheme, uri.host, uri.path) == ("vault-transit", "bao.local:8200", "/transit/dbsec")
    assert uri.query == {"ca": "/etc/ca.pem", "token": "file:/run/a+b=c"}
    assert split("pkcs11:token=t;id=%01?module-path=/m.so").path == "token=t;id=%01"
    assert split("file-kek:/k.json").query == {}


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("", "begins with its scheme"),
        ("/path/only", "begins with its scheme"),
        (f"{SECRET}", "begins with its scheme"),
        (f"file-kek:/k#{SECRET}", "holds '#'"),
        (f"file-kek:/k?passphrase={SECRET} x", "a blank"),
        (f"file-kek:/k?passphrase={SECRET}%zz", "stray '%'"),
        (f"file-kek:/k?{SECRET}", "without a value"),
        (f"file-kek:/k?passphrase={SECRET}&passphrase={SECRET}", "'passphrase' twice"),
        (f"vault-transit://user:{SECRET}@host/t/k", "holds a user"),
        ("vault-transit://{tenant}.example/t/k", "{tenant}"),
        (f"file-kek:/k?passphrase={SECRET}", "by reference, never by value"),
        (f"file-kek:/k?pass={SECRET}", "knows no parameter 'pass'"),
        ("file-kek:/k", "needs the parameter 'passphrase'"),
        (f"file-kek://{SECRET}/k?passphrase=env:P", "is a path"),
        ("gcp-kms://x/y", "no KMS has the scheme 'gcp-kms'"),
    ],
)
def test_what_is_refused_is_said_without_the_credential(uri, said):
    with pytest.raises(ConfigError) as refused:
        open_kms(uri, environ={"P": "x" * 12})
    assert said in str(refused.value)
    assert SECRET not in f"{refused.value} {refused.value.hint}"


@pytest.mark.parametrize(
    "uri", [f"s://user:{SECRET}@host/k", f"s://{SECRET}@host", "s://{tenant}.example/k", "s://{tenant}/k"]
)
def test_a_host_holds_neither_a_user_nor_a_tenant(uri):
    with pytest.raises(ConfigError, match=r"holds a user or '\{tenant\}'") as refused:
        split(uri)
    assert SECRET not in f"{refused.value} {refused.value.hint}"


def test_an_unknown_scheme_names_those_that_are_known():
    with pytest.raises(ConfigError) as refused:
        open_kms("gcp-kms://x/y", environ={})
    assert "file-kek, pkcs11, vault-transit" in refused.value.hint


def test_a_repr_does_not_show_a_value_that_should_be_a_reference():
    assert SECRET not in repr(split(f"file-kek:/k?passphrase={SECRET}"))


@pytest.mark.parametrize(("module", "uri"), [("pkcs11", "pkcs11:token=t;object=k"), ("hvac", "vault-transit://h/t/k")])
def test_a_missing_sdk_names_the_extra(module, uri, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == module or "pkcs11" in n or "vault" in n]:
        monkeypatch.delitem(sys.modules, name)
    with discovery.hidden(module), pytest.raises(ProgramMissing) as missing:
        open_kms(uri, environ={})
    assert missing.value.hint == f"pip install 'dbsec[{uri.split(':')[0].split('-')[0]}]'"
    assert f"needs the module '{module}'" in str(missing.value)


def test_file_is_another_name_for_file_kek(tmp_path):
    kms = open_kms(f"file:{tmp_path}/none.json?passphrase=env:P", environ={"P": "x" * 12})
    with pytest.raises(KmsRefused, match="there is no KEK file"):
        kms.describe()


@pytest.mark.parametrize(
    "tenant", ["", ".", "..", "...", "a/b", "a b", "a%2fb", "ä", "a\n", "a" * 65, "a;b", "a?b", "a&b"]
)
def test_a_tenant_leads_nowhere_else(tenant):
    with pytest.raises(ConfigError, match="is no name of a tenant"):
        of_tenant("file-kek:/keks/{tenant}/kek.json", tenant)


@pytest.mark.parametrize("tenant", ["a", "A-1_b.c", "a" * 64])
def test_a_tenant_is_put_in(tenant):
    assert of_tenant("file-kek:/keks/{tenant}.json", tenant) == f"file-kek:/keks/{tenant}.json"


@pytest.mark.parametrize(
    ("uri", "tenant"), [("file-kek:/{tenant}?passphrase=env:P", ""), ("file-kek:/k?passphrase=env:P", "a")]
)
def test_an_admin_has_a_tenant_where_the_uri_is_a_template_and_only_there(uri, tenant):
    with pytest.raises(ConfigError, match="takes a tenant"):
        open_admin(uri, environ={"P": "x" * 12}, tenant=tenant)


def test_an_aad_without_a_tenant_is_an_error_of_the_caller():
    kms = open_kms("file-kek:/{tenant}.json?passphrase=env:P", environ={"P": "x" * 12})
    with pytest.raises(UsageError, match="the AAD names none"):
        kms.unwrap(b"x", {"context": "c"})


def test_a_template_checks_its_scheme_before_the_first_call():
    with pytest.raises(ConfigError, match="no KMS has the scheme"):
        open_kms("gcp-kms://x/{tenant}", environ={})


class Counting:
    """A KMS that knows its tenant."""

    def __init__(self, tenant):
        self.tenant = tenant

    def unwrap(self, wrapped, aad):
        return bytearray(wrapped + self.tenant.encode())


def test_the_tenants_used_last_stay_open():
    opened = []
    template = Template(lambda tenant: opened.append(tenant) or Counting(tenant), keep=2)
    for tenant in "abacab":
        assert template.unwrap(b"of ", {"tenant": tenant}) == b"of " + tenant.encode()
    assert opened == ["a", "b", "c", "b"]


def test_a_breaker_is_shared_by_the_tenants_of_a_template():
    kms = open_kms(
        "file-kek:/proc/self/mem/{tenant}?passphrase=env:P", environ={"P": "x" * 12}, patience=Patience(within_s=0)
    )
    breakers = {id(kms._of({"tenant": tenant})._breaker) for tenant in "abc"}
    assert len(breakers) == 1


def test_the_bytes_of_an_aad_are_these():
    """Never to be changed: what was wrapped opens under these bytes alone."""
    aad = {"tenant": "a", "context": "app.users", "é": "ü"}
    assert aad_bytes(aad).hex() == (
        "00000007" + b"context".hex() + "00000009" + b"app.users".hex()
        + "00000006" + b"tenant".hex() + "00000001" + b"a".hex()
        + "00000002" + "é".encode().hex() + "00000002" + "ü".encode().hex()
    )  # fmt: skip
    assert aad_bytes({}) == b""


@given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(), st.text()))
def test_two_aads_never_share_their_bytes(one, other):
    assert (aad_bytes(one) == aad_bytes(other)) == (one == other)
    assert aad_bytes(dict(reversed(one.items()))) == aad_bytes(one)


def test_a_path_is_decoded(tmp_path):
    (tmp_path / "a b").mkdir()
    kms = open_kms(f"file-kek:{tmp_path}/a%20b/k.json?passphrase=env:P", environ={"P": "x" * 12})
    with pytest.raises(KmsRefused, match=str(Path("a b/k.json"))):
        kms.describe()

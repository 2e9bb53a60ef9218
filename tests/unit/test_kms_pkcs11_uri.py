"""RFC 7512 as far as a KEK needs it, and no further: what is not understood is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbsec.errors import ConfigError
from dbsec.kms.pkcs11_uri import parse
from dbsec.kms.uri import split

MODULE = __file__  # any file: nothing is loaded here
QUERY = f"module-path={MODULE}&pin-source=file:/run/pin"


def read(path, query=QUERY):
    return parse(split(f"pkcs11:{path}?{query}"))


def test_token_and_key_are_named():
    name = read("token=my%20token;manufacturer=ACME%20Inc;serial=0a;model=X;object=kek%2Done;id=%01%FF;type=secret-key")
    token = name.token
    assert (token.token, token.manufacturer, token.serial, token.model) == ("my token", "ACME Inc", "0a", "X")
    assert (name.label, name.key_id, token.module) == ("kek-one", b"\x01\xff", Path(MODULE))
    assert str(name) == "pkcs11:my token/kek-one"
    assert str(read("token=t;id=%0a")) == "pkcs11:t/%0a"


def test_what_is_left_out_may_be_anything():
    name = read("token=t;object=k")
    assert name.token.matches(token="t", manufacturer="any", model="any", serial="any")
    assert not name.token.matches(token="T", manufacturer="any", model="any", serial="any")
    assert not read("token=t;serial=1;object=k").token.matches(token="t", manufacturer="", model="", serial="2")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("token=t;object=k;slot-id=1", "unknown attribute 'slot-id'"),
        ("token=t;object=k;x-vendor=1", "unknown attribute 'x-vendor'"),
        ("token=t;object=k;", None),
        ("token=t;object=a;object=b", "'object' twice"),
        ("token=t;object=k;type=private", "a KEK is a secret key"),
        ("object=k", "names its token"),
        ("token=;object=k", "names its token"),
        ("token=t", "names its key"),
        ("token=t;id=", "names its key"),
        ("token=t;id=%01%02%03%04%05%06%07%08%09", "8 bytes at most"),
        ("token=%ff;object=k", "'token' of the 'pkcs11:' uri is no UTF-8"),
        ("//host/token=t;object=k", "has no host"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(path, said):
    if said is None:
        assert read(path).label == "k"
        return
    with pytest.raises(ConfigError) as refused:
        read(path)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (f"module-path={MODULE}&pin-value=hunter2", "a pin is given by reference"),
        ("pin-source=file:/run/pin", "needs the parameter 'module-path'"),
        ("module-path=libsofthsm2.so&pin-source=file:/p", "there is no PKCS#11 module 'libsofthsm2.so'"),
        ("module-path=/no/such.so&pin-source=file:/p", "there is no PKCS#11 module"),
        (f"module-name=softhsm2&{QUERY}", "knows no parameter 'module-name'"),
    ],
)
def test_a_pin_is_no_value_and_a_module_is_a_path(query, said):
    with pytest.raises(ConfigError) as refused:
        read("token=t;object=k", query)
    assert said in str(refused.value)
    assert "hunter2" not in f"{refused.value} {refused.value.hint}"

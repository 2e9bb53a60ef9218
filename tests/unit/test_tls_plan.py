"""A plan as a person reads it: what changes, and no secret of the old file."""

from __future__ import annotations

from dbsec.pg.hba import render
from dbsec.tls import posture
from dbsec.tls.ca import Authority
from dbsec.tls.posture import Posture
from dbsec.tls.server_plan import Plan, SettingChange

AUTHORITY = Authority.create("the site's CA")
PAIR = AUTHORITY.issue_server(["localhost"])
LINES = posture.hba(admin="postgres")
POSTURE = Posture(PAIR, AUTHORITY.certificate, AUTHORITY.certificate, LINES)
OLD = 'host all all 10.0.0.0/8 ldap ldapserver=l ldapbindpasswd="the bind password"\nhost all all all md5\n'


def plan(*, hba_old: str, settings: tuple[SettingChange, ...] = (), served: str | None, ca: bool = False) -> Plan:
    return Plan(POSTURE, settings, "/data/pg_hba.conf", hba_old, render(LINES), served, PAIR.fingerprint, ca)


def test_a_secret_of_the_old_file_is_not_shown() -> None:
    made = plan(hba_old=OLD, served=None)
    assert "the bind password" not in made.render() + repr(made)
    assert "-host all all 10.0.0.0/8 ldap ldapserver=l ldapbindpasswd=<redacted>" in made.render()


def test_it_says_what_changes_line_by_line() -> None:
    change = SettingChange("ssl_ca_file", "", "root.crt", None)
    lines = plan(hba_old=OLD, settings=(change,), served="ab" * 32, ca=True).render().splitlines()
    assert lines[0] == f"certificate  {'ab' * 8} -> {PAIR.fingerprint[:16]}"
    assert lines[1:3] == ["client CA    replaced", "setting      ssl_ca_file: none -> root.crt"]
    assert "-host all all all md5" in lines
    assert any(line.startswith("+hostnossl") for line in lines)


def test_each_part_alone_is_a_change() -> None:
    same = render(LINES)
    assert plan(hba_old=same, served=PAIR.fingerprint).empty
    assert not plan(hba_old=OLD, served=PAIR.fingerprint).empty
    assert not plan(hba_old=same, served=None).empty
    assert not plan(hba_old=same, served=PAIR.fingerprint, ca=True).empty
    assert not plan(hba_old=same, served=PAIR.fingerprint, settings=(SettingChange("ssl", "off", "on", None),)).empty

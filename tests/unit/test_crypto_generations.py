"""The next generation of a lookup key without a server: names, what is read, and what the two columns hold."""

from __future__ import annotations

import pytest

from dbsec import files
from dbsec.crypto import (
    BlindIndex,
    EncryptedColumn,
    Envelope,
    Field,
    Keyring,
    MemoryKeyStore,
    Mode,
    ModeRefused,
    Normal,
)
from dbsec.crypto import generations as gen
from dbsec.kms import open_kms
from dbsec.kms.kek_file import Cost
from dbsec.kms.schemes.file_kek import FileKekAdmin
from dbsec.secret import Secret

EMAIL, PHONE = Field("app.users", "email"), Field("app.users", "phone")
SIV = EncryptedColumn("app.users", "email_enc", EMAIL, mode=Mode.DETERMINISTIC, tenant="tenant_id")
BIDX = EncryptedColumn(
    "app.users",
    "phone_enc",
    PHONE,
    tenant="tenant_id",
    row=("region", "id"),
    index=("phone_bidx", BlindIndex(63, normal=Normal.DIGITS)),
)


@pytest.fixture(scope="module")
def envelope(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kek")
    files.write_atomic(folder / "p", "a passphrase of the tests")
    FileKekAdmin(folder / "k", lambda: Secret("a passphrase of the tests"), cost=Cost(2**14)).create()
    kms = open_kms(f"file-kek:{folder}/k?passphrase=file:{folder}/p", environ={})
    return Envelope(Keyring(MemoryKeyStore(), kms))


def test_the_next_one_has_a_column_of_its_own_and_all_else_stays():
    two = gen.next_generation(SIV)
    assert (two.column, two.generation, two.field, two.row) == ("email_enc_g2", 2, SIV.field, SIV.row)
    three = gen.next_generation(two)
    assert (three.column, three.generation) == ("email_enc_g3", 3)
    index = gen.next_generation(BIDX)
    assert index.column == BIDX.column
    assert index.index == ("phone_bidx_g2", BlindIndex(63, 2, Normal.DIGITS))
    assert gen.next_generation(BIDX, "other").index[0] == "other"
    with pytest.raises(ModeRefused, match="too long"):
        gen.next_generation(EncryptedColumn("t", "x" * 62, EMAIL, mode=Mode.DETERMINISTIC))


@pytest.mark.parametrize("mode", [Mode.RANDOMISED, Mode.INLINE])
def test_what_is_not_looked_up_has_no_lookup_key(mode):
    with pytest.raises(ModeRefused, match="not found by its value"):
        gen.next_generation(EncryptedColumn("app.users", "note", Field("app.users", "note"), mode=mode))


def test_two_generations_of_a_value_have_nothing_in_common(envelope):
    for column, value in ((SIV, "a@example.org"), (BIDX, "+49 30 1234")):
        new = gen.next_generation(column)
        made = gen.lookup_values(envelope, (column, new), value, tenant="t")
        assert list(made) == [gen.lookup_column(column), gen.lookup_column(new)]
        assert len(set(made.values())) == 2
        assert made == gen.lookup_values(envelope, (column, new), value, tenant="t")
        if column is SIV:
            # key id and synthetic IV differ; the header's format does not
            assert made["email_enc"][2:22] != made["email_enc_g2"][2:22]


def test_a_backfill_fills_from_the_old_one_and_its_check_sees_each_difference(envelope):
    rows = []
    for number in range(5):
        value = f"+49 30 {number}"
        sealed = envelope.encrypt(value.encode(), PHONE, tenant="t", row=("eu", number))
        index = gen.lookup_value(envelope, BIDX, value, tenant="t")
        rows.append({"id": number, "region": "eu", "tenant_id": "t", "phone_enc": sealed, "phone_bidx": index})
    new = gen.next_generation(BIDX)
    assert set(gen.reads(BIDX)) <= set(rows[0])
    assert gen.reads(SIV) == ("email_enc", "tenant_id")
    made = list(gen.filled(envelope, BIDX, new, rows, key=("region", "id")))
    assert [set(row) for row in made] == [{"region", "id", "phone_bidx_g2"}] * 5
    full = [row | change for row, change in zip(rows, made, strict=True)]
    assert list(gen.agree(envelope, BIDX, new, full)) == [True] * 5
    full[1]["phone_bidx_g2"] = full[2]["phone_bidx_g2"]
    full[3]["phone_enc"] = full[4]["phone_enc"]
    assert list(gen.agree(envelope, BIDX, new, full)) == [True, False, True, False, True]


def test_the_steps_name_what_still_needs_the_old_key():
    told = gen.steps(SIV, gen.next_generation(SIV), sharing=["'app.users.phone'"])
    assert any("app.users.phone" in step and "leave it active" in step for step in told)
    assert not any("leave it active" in step for step in gen.steps(SIV, gen.next_generation(SIV)))

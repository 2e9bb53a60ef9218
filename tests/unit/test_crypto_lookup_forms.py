"""What is compared and under which key: normal forms, truncation, and that no two uses of a lookup key meet."""

from __future__ import annotations

import hmac
import itertools
import os
import unicodedata

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from hypothesis import example, given
from hypothesis import strategies as st

from dbsec import files
from dbsec.crypto import BlindIndex, Envelope, Field, Keyring, MemoryKeyStore, ModeRefused, Normal
from dbsec.crypto.binding import UNBOUND, aad_prefix, label, row_part
from dbsec.crypto.dek import Dek
from dbsec.crypto.lookup import Lookup, normalised
from dbsec.kms import open_kms
from dbsec.kms.kek_file import Cost
from dbsec.kms.schemes.file_kek import FileKekAdmin
from dbsec.secret import Secret

EMAIL = Field("app.users", "email")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
# the letters in which case, compatibility and order of marks meet
TRICKY = st.text("aAıİiIßẞſsSσςΣᾳᾼΑΙῖ́̈ͅÅÅåﬁﬀ①²Ⅷⅷ½㏠ŉǰΐ῾ \t\u00a0\u200b\u00adé", max_size=8)
UNSEEN = "\u00ad\u034f\u200b\u200d\u2060\ufe0f\ufeff\u3164\U000e0041"


def folded(text: str) -> str:
    return normalised(text, Normal.CASEFOLD).decode()


def digits(text: str) -> str:
    return normalised(text, Normal.DIGITS).decode()


# --- forms


@given(TEXT | TRICKY)
@example("\u00a8a")
@example("\u1fb7")
@example("a\u3164")
def test_the_form_of_a_form_is_itself(text):
    for form in (folded, digits):
        assert form(form(text)) == form(text)


def test_the_form_of_each_letters_form_is_itself():
    for code in [*range(0xD800), *range(0xE000, 0x20000)]:
        form = folded(f"a{chr(code)}")
        assert folded(form) == form, hex(code)
        assert digits(digits(chr(code))) == digits(chr(code)), hex(code)


@given(TEXT | TRICKY, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_spellings_of_one_text_have_one_form(text, spelling):
    other = unicodedata.normalize(spelling, text)
    assert folded(other) == folded(text)
    assert digits(other) == digits(text)


def _cased(text: str) -> bool:
    """Tell whether case is defined of it: what is not seen stands between marks, and keeps them out of order."""
    return "ı" not in text and all(c.isspace() or folded(f"a{c}") != "a" for c in text)


@given((TEXT | TRICKY).filter(_cased))
def test_upper_and_lower_case_have_one_form(text):
    """But of the dotless i, whose upper case is another letter's. Case is defined of text whose marks are in order."""
    text = unicodedata.normalize("NFD", text)
    assert folded(text.upper()) == folded(text) == folded(text.lower()) == folded(text.casefold())


@given(TEXT | TRICKY, st.lists(st.tuples(st.integers(0, 12), st.sampled_from(UNSEEN)), max_size=4))
def test_what_is_not_seen_makes_no_other_value(text, inserted):
    """Two accounts of one address, one of them with a blank of no width in it, are what UNIQUE is to refuse."""
    other = text
    for at, char in inserted:
        other = other[:at] + char + other[at:]
    assert folded(other) == folded(text)
    assert digits(other) == digits(text)


@given(st.text(st.characters(max_codepoint=127)), st.text(st.characters(max_codepoint=127)))
def test_ascii_that_differs_in_more_than_case_and_outer_blanks_stays_apart(one, other):
    alike = one.lower().strip() == other.lower().strip()
    assert (folded(one) == folded(other)) is alike
    assert (normalised(one, Normal.NONE) == normalised(other, Normal.NONE)) is (one == other)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (" +43 (660) 123-45 67 ", "+436601234567"),
        ("(+43) 660/1234567", "+436601234567"),
        ("\uff0b\u0664\u0663 \u0666\u0666\u0660", "+43660"),
        ("0043 660", "0043660"),
        ("43+660", "43660"),
        ("1\u0662\uff13", "123"),
        ("n/a", "n/a"),
        (" N/A\u200b", "n/a"),
        ("+", "+"),
        ("", ""),
        ("  ", ""),
    ],
)
def test_phone_numbers(text, form):
    assert digits(text) == form


@given(st.text(st.sampled_from("٠١٢٣٤٥٦٧٨٩"), min_size=1))
def test_digits_of_another_script_are_not_dropped(text):
    """Were they, all such numbers would be one value, and UNIQUE would let the first one in alone."""
    assert digits(text) == "".join(str("٠١٢٣٤٥٦٧٨٩".index(c)) for c in text)


@given(TEXT, TEXT)
def test_text_without_digits_never_meets_a_number(words, number):
    has = [any(c.isdecimal() for c in unicodedata.normalize("NFKC", text)) for text in (words, number)]
    if has == [False, True]:
        assert digits(words) != digits(number)


def test_bytes_have_the_form_none_alone():
    assert normalised(b"Aa", Normal.NONE) == b"Aa" == normalised(bytearray(b"Aa"), Normal.NONE)
    for how in (Normal.CASEFOLD, Normal.DIGITS):
        with pytest.raises(ModeRefused, match="bytes have no form"):
            normalised(b"Aa", how)


@pytest.mark.parametrize("how", list(Normal))
def test_half_a_surrogate_pair_is_refused_without_the_value(how):
    with pytest.raises(ModeRefused) as refused:
        normalised("secret \ud83d", how)
    error = refused.value
    assert "secret" not in repr(error)
    assert error.__context__ is None
    assert error.__cause__ is None


# --- widths


@given(st.binary(max_size=40), st.integers(1, 63), st.sampled_from(range(64, 257, 8)))
def test_a_narrow_index_is_the_beginning_of_the_wide_one(value, bits, wide_bits):
    lookup = _lookup()
    full = lookup.index(value, BlindIndex(256))
    assert lookup.index(value, BlindIndex(wide_bits)) == full[: wide_bits // 8]
    narrow = lookup.index(value, BlindIndex(bits))
    assert 0 <= narrow < 2**bits <= 2**63
    assert narrow == int.from_bytes(full, "big") >> (256 - bits)


@pytest.mark.parametrize("bits", [1, 7, 63])
def test_each_bit_of_a_narrow_index_is_used(bits):
    lookup = _lookup()
    seen_one = seen_zero = 0
    for n in range(200):
        index = lookup.index(str(n).encode(), BlindIndex(bits))
        seen_one |= index
        seen_zero |= ~index
    everything = 2**bits - 1
    assert seen_one == everything
    assert seen_zero & everything == everything


@pytest.mark.parametrize("bits", [0, -1, 65, 100, 257, 264])
def test_a_width_without_a_column_type_is_refused(bits):
    with pytest.raises(ModeRefused):
        BlindIndex(bits)


def test_generations_begin_with_one():
    with pytest.raises(ModeRefused):
        BlindIndex(generation=0)


# --- which key


def test_no_two_uses_places_or_tenants_derive_one_key():
    """Names are length-prefixed: what is cut elsewhere is another place."""
    dek = Dek(bytearray(range(32)), bytes(32))
    places = [
        ("t", "a", "bc"),
        ("t", "ab", "c"),
        ("ta", "b", "c"),
        ("", "ta", "bc"),
        ("t", "b", "ac"),
        ("t", "abc", ""),
    ]
    uses = [b"dbsec/1/aead", b"dbsec/1/siv", b"dbsec/1/bidx"]
    halves = [dek.commitment()]
    for use, (tenant, context, column) in itertools.product(uses, places):
        made = dek.subkey(label(use, tenant, Field(context, column)), 64)
        halves += [made[:32], made[32:]]
    assert len(set(halves)) == len(halves) == 1 + 2 * len(uses) * len(places)


def test_each_use_of_a_lookup_key_has_the_key_of_its_name():
    raw = os.urandom(32)
    lookup = Lookup(Dek(bytearray(raw), bytes(32)), 1, EMAIL, "t", expires=0)
    dek = Dek(bytearray(raw), bytes(32))
    index_key = dek.subkey(label(b"dbsec/1/bidx", "t", EMAIL))
    siv = AESSIV(dek.subkey(label(b"dbsec/1/siv", "t", EMAIL), 64))
    for value in (b"", b"x", bytes(64)):
        assert lookup.index(value, BlindIndex(256)) == hmac.digest(index_key, value, "sha256")
        sealed = lookup.encrypt(value)
        aad = aad_prefix("t", EMAIL, sealed[:6]) + row_part(UNBOUND)
        assert siv.decrypt(sealed[6:], [aad]) == value


@pytest.fixture(scope="module")
def envelope(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kek")
    files.write_atomic(folder / "p", "a passphrase of the tests")
    FileKekAdmin(folder / "k", lambda: Secret("a passphrase of the tests"), cost=Cost(2**14)).create()
    kms = open_kms(f"file-kek:{folder}/k?passphrase=file:{folder}/p", environ={})
    return Envelope(Keyring(MemoryKeyStore(), kms))


@pytest.mark.parametrize("value", ["", "same@example.org"])
def test_equal_values_of_two_tenants_tables_columns_or_generations_have_nothing_in_common(envelope, value):
    seen = []
    for tenant, context, column, generation in itertools.product(
        ["one", "two", ""], ["app.users", "app.staff"], ["email", "other"], [1, 2]
    ):
        place = Field(context, column)
        index = envelope.blind_index(value, place, BlindIndex(256, generation), tenant=tenant)
        sealed = envelope.encrypt_deterministic(value.encode(), place, tenant=tenant, generation=generation)
        seen += [index[:16], index[16:], sealed[6:22]]
        again = envelope.encrypt_deterministic(value.encode(), place, tenant=tenant, generation=generation)
        assert again == sealed
        assert envelope.blind_index(value, place, BlindIndex(256, generation), tenant=tenant) == index
        assert envelope.decrypt(sealed, place, tenant=tenant, row=1) == value.encode()
    assert len(set(seen)) == len(seen) == 3 * 24


def test_an_empty_value_is_a_value_and_not_nothing(envelope):
    empty = envelope.encrypt_deterministic(b"", EMAIL, tenant="t")
    assert len(empty) == 22
    assert envelope.decrypt(empty, EMAIL, tenant="t", row=1) == b""
    for how in Normal:
        index = envelope.blind_index("", EMAIL, BlindIndex(normal=how), tenant="t")
        assert index == envelope.blind_index(b"", EMAIL, BlindIndex(), tenant="t")
        assert index != envelope.blind_index("0", EMAIL, BlindIndex(normal=how), tenant="t")


def test_the_form_is_made_before_the_index(envelope):
    how = BlindIndex(63, normal=Normal.CASEFOLD)
    one = envelope.blind_index("Straße@Example.org ", EMAIL, how, tenant="t")
    assert one == envelope.blind_index("STRASSE@example.ORG", EMAIL, how, tenant="t")
    with pytest.raises(ModeRefused):
        envelope.blind_index(b"Ann", EMAIL, how, tenant="t")


def _lookup() -> Lookup:
    return Lookup(Dek(bytearray(os.urandom(32)), bytes(32)), 1, EMAIL, "t", expires=0)

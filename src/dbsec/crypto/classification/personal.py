"""What looks personal or secret: by the name of a column, and by its values where they may be sampled."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# words of a name, or two of them in a row; each with what it is taken for
_WORDS: Final = {
    "email": "an e-mail address",
    "mail": "an e-mail address",
    "phone": "a phone number",
    "telephone": "a phone number",
    "mobile": "a phone number",
    "msisdn": "a phone number",
    "fax": "a phone number",
    "name": "a name",
    "firstname": "a name",
    "lastname": "a name",
    "fullname": "a name",
    "surname": "a name",
    "username": "a name",
    "nickname": "a name",
    "birthday": "a date of birth",
    "birthdate": "a date of birth",
    "birth": "a date of birth",
    "dob": "a date of birth",
    "gender": "what a person is",
    "ethnicity": "what a person is",
    "religion": "what a person is",
    "nationality": "what a person is",
    "diagnosis": "what a person is",
    "salary": "what a person earns",
    "address": "an address",
    "street": "an address",
    "zipcode": "an address",
    "postcode": "an address",
    "postal": "an address",
    "ip": "an address",
    "latitude": "a place",
    "longitude": "a place",
    "ssn": "an official number",
    "passport": "an official number",
    "iban": "an account",
    "pan": "a card",
    "cvv": "a card",
    "cvc": "a card",
    "password": "a secret",
    "passwd": "a secret",
    "passphrase": "a secret",
    "secret": "a secret",
    "token": "a secret",
    "pin": "a secret",
    "otp": "a secret",
}
_PAIRS: Final = {
    ("tax", "id"): "an official number",
    ("national", "id"): "an official number",
    ("social", "security"): "an official number",
    ("card", "number"): "a card",
    ("credit", "card"): "a card",
    ("account", "number"): "an account",
    ("bank", "account"): "an account",
    ("api", "key"): "a secret",
    ("private", "key"): "a secret",
}
_NEVER: Final = {"bool", "timestamp", "timestamptz", "time", "timetz", "interval", "uuid"}  # email_sent_at, has_phone

# POSIX regular expressions of PostgreSQL. One hit of the first is enough, as it may stand in a text; of the others the
# whole value has to fit, in half of the rows that were looked at.
ANYWHERE: Final = {"an e-mail address": r"[[:alnum:]._%+-]+@[[:alnum:]-]+(\.[[:alnum:]-]+)*\.[[:alpha:]]{2,}"}
WHOLE: Final = {
    "a phone number": r"^\s*(\+|00)[0-9][0-9 ()/.-]{6,18}$",
    "an IBAN": r"^[A-Z]{2}[0-9]{2} ?([A-Z0-9]{4} ?){2,7}[A-Z0-9]{1,4}$",
    "a card number": r"^[3-6][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{1,4}$",
    "a social security number": r"^[0-9]{3}-[0-9]{2}-[0-9]{4}$",
}


def by_name(column: str, type_name: str) -> str:
    """Say what a column looks like by its name, "" where it looks like nothing of the kind.

    ``type_name`` is PostgreSQL's own: no flag and no moment is personal, whatever it is called after.
    """
    if type_name in _NEVER:
        return ""
    words = [word.lower() for word in _WORD.findall(column)]
    for pair in pairwise(words):
        if pair in _PAIRS:
            return _PAIRS[pair]
    return next((_WORDS[word] for word in words if word in _WORDS), "")

"""Draw the pictures of docs/envelope_crypto.md: ``python scripts/diagrams.py`` writes docs/images/crypto_*.svg.

``--check`` compares. Colours follow the reader's light or dark scheme; nothing is loaded from elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from html import escape
from pathlib import Path

TARGETS = Path(__file__).resolve().parents[1] / "docs" / "images"
WIDTH = 860
LINE = 17
STYLE = """
  svg { background: #ffffff }
  text { font: 13px system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 }
  .small { font-size: 11.5px; fill: #59636e }
  .mono { font: 12px ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace }
  rect { stroke-width: 1.2 }
  .plain { fill: #f6f8fa; stroke: #818b98 }
  .key { fill: #fff3d6; stroke: #9a6700 }
  .cipher { fill: #dff1ff; stroke: #0969da }
  .clear { fill: #ffe7e4; stroke: #cf222e }
  .zone { fill: none; stroke: #818b98; stroke-dasharray: 5 4 }
  .arrow { stroke: #59636e; stroke-width: 1.4; fill: none; marker-end: url(#tip) }
  #tip path { fill: #59636e }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117 }
    text { fill: #e6edf3 }
    .small { fill: #9198a1 }
    .plain { fill: #161b22; stroke: #7d8590 }
    .key { fill: #33270a; stroke: #d29922 }
    .cipher { fill: #0c2540; stroke: #4493f8 }
    .clear { fill: #3b1214; stroke: #f85149 }
    .zone { stroke: #7d8590 }
    .arrow { stroke: #9198a1 }
    #tip path { fill: #9198a1 }
  }
"""
TIP = '<marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'


def text(x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(said)}</text>'


def box(x: float, y: float, w: float, h: float, kind: str, title: str = "", lines: Iterable[str] = ()) -> str:
    parts = [f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6" class="{kind}"/>']
    if title:
        parts.append(text(x + 12, y + 20, title, "title"))
    parts += [text(x + 12, y + 20 + LINE * (n + bool(title)), line, "small") for n, line in enumerate(lines)]
    return "".join(parts)


def arrow(*points: tuple[float, float], said: str = "", at: tuple[float, float] | None = None) -> str:
    path = " ".join(f"{'M' if n == 0 else 'L'}{x:g} {y:g}" for n, (x, y) in enumerate(points))
    return f'<path d="{path}" class="arrow"/>' + (text(*(at or points[0]), said, "small") if said else "")


def strip(x: float, y: float, cells: Iterable[tuple[float, str, str, str]]) -> str:
    """Draw the bytes of a value: width, kind, name, and how many bytes below it."""
    parts = []
    for width, kind, name, size in cells:
        parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="30" class="{kind}"/>')
        parts.append(text(x + width / 2, y + 20, name, "mono", "middle"))
        parts.append(text(x + width / 2, y + 45, size, "small", "middle"))
        x += width
    return "".join(parts)


def picture(height: int, told: str, parts: Iterable[str]) -> str:
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n'
        f"<title>{escape(told)}</title>\n<style>{STYLE}</style>\n"
        f'<defs>{TIP}<path d="M0 0L10 5L0 10z"/></marker></defs>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def envelope() -> str:
    by_reference = [
        (62, "plain", "d5 11", "2"),
        (78, "plain", "key id", "4"),
        (92, "plain", "nonce", "12"),
        (250, "cipher", "ciphertext", "as long as the plaintext"),
        (92, "plain", "tag", "16"),
    ]
    deterministic = [
        (62, "plain", "d5 12", "2"),
        (78, "plain", "key id", "4"),
        (132, "plain", "synthetic IV", "16, is the tag"),
        (250, "cipher", "ciphertext", "equal for equal plaintexts"),
    ]
    inline = [
        (62, "plain", "d5 13", "2"),
        (48, "plain", "w", "2"),
        (150, "key", "wrapped DEK", "w"),
        (112, "plain", "commitment", "32"),
        (72, "plain", "nonce", "12"),
        (250, "cipher", "ciphertext", "as long as the plaintext"),
        (72, "plain", "tag", "16"),
    ]
    return picture(
        520,
        "An envelope: the KMS holds the KEK, the keyring wrapped DEKs, a value names its key or carries it",
        [
            box(20, 20, 210, 96, "key", "KMS", ["KEK of the tenant", "never leaves", "wraps and unwraps DEKs"]),
            box(
                320,
                20,
                240,
                130,
                "plain",
                "dbsec.keyring, one row a key",
                [
                    "id 7, tenant, context, purpose",
                    "wrapped DEK: the KMS opens it",
                    "commitment: HKDF of the DEK",
                    "salt, generation, state",
                    "used: encryptions leased of 2^32",
                ],
            ),
            box(
                630,
                20,
                210,
                130,
                "clear",
                "the service's process",
                [
                    "ciphers, cached for 5 minutes",
                    "the DEK itself is zeroed",
                    "as soon as they are made",
                    "plaintext while it is used",
                ],
            ),
            arrow((230, 60), (320, 60), said="wrap", at=(258, 52)),
            arrow((560, 60), (630, 60)),
            arrow(
                (630, 120),
                (600, 120),
                (600, 172),
                (125, 172),
                (125, 116),
                said="unwrap: one call a key and TTL",
                at=(262, 190),
            ),
            text(20, 232, "By reference (the default): 34 bytes more, the key is found by its id", "title"),
            strip(20, 246, by_reference),
            text(20, 326, "Deterministic: 22 bytes more, for columns that are found by equality", "title"),
            strip(20, 340, deterministic),
            text(20, 420, "Inline: 64 + w bytes more, and one KMS call for each reading", "title"),
            strip(20, 434, inline),
            text(
                20,
                508,
                "Bound to each and not stored: tenant, context, column, row; the row's version where one is given.",
                "small",
            ),
        ],
    )


def hierarchy() -> str:
    subkey = [
        (20, "cipher", "AEAD key", "phone", "values by reference"),
        (230, "cipher", "AEAD key", "address", "values by reference"),
        (440, "cipher", "SIV key", "email", "deterministic values"),
        (650, "cipher", "index key", "phone", "blind indexes"),
    ]
    parts = [
        box(
            300, 16, 260, 78, "key", "KEK", ["one a tenant, in the KMS or HSM", "rotated yearly: versions, then rewrap"]
        ),
        box(
            90,
            150,
            280,
            96,
            "key",
            "DEK, purpose data",
            ["one a tenant and context", "at most 2^32 encryptions", "rotated by generation, then reencrypt"],
        ),
        box(
            490,
            150,
            280,
            96,
            "key",
            "DEK, purpose lookup",
            ["one a tenant and context", "lives as long as its column of", "lookups: the next one has a new column"],
        ),
        arrow((390, 94), (230, 150), said="wraps", at=(262, 118)),
        arrow((470, 94), (630, 150), said="wraps", at=(572, 118)),
        text(
            20,
            470,
            "Subkeys: HKDF-SHA256 with the row's salt; the info names purpose, tenant, context and column.",
            "small",
        ),
    ]
    for x, kind, title, column, use in subkey:
        parts.append(box(x, 300, 190, 62, kind, title, [f"of one column: {column}"]))
        parts.append(box(x, 400, 190, 42, "plain", "", [use]))
        parts.append(arrow((x + 95, 362), (x + 95, 400)))
    parts += [arrow((230, 246), (115, 300)), arrow((230, 246), (325, 300))]
    parts += [arrow((630, 246), (535, 300)), arrow((630, 246), (745, 300))]
    return picture(490, "The hierarchy of keys: a KEK wraps DEKs, HKDF makes a subkey of each column", parts)


def life() -> str:
    return picture(
        400,
        "The life of a key: active, retired, destroyed, and what moves it",
        [
            box(20, 60, 170, 78, "plain", "first use", ["a DEK is drawn, wrapped,", "committed to"]),
            box(270, 60, 170, 78, "cipher", "active", ["encrypts and decrypts", "counted up to 2^32"]),
            box(520, 60, 170, 78, "cipher", "retired", ["decrypts alone"]),
            box(520, 250, 170, 78, "clear", "destroyed", ["neither; its values", "stay closed for ever"]),
            arrow((190, 100), (270, 100)),
            arrow((440, 100), (520, 100), said="rotate-dek", at=(448, 90)),
            arrow(
                (330, 60),
                (330, 28),
                (390, 28),
                (390, 60),
                said="rewrap: same DEK, newest KEK version; no row is written",
                at=(400, 32),
            ),
            arrow((605, 138), (605, 250), said="reencrypt has moved every row", at=(616, 180)),
            text(616, 197, "and no backup needs it any more", "small"),
            arrow(
                (355, 138), (355, 290), (520, 290), said="shred: the tenant's KEK is destroyed in the KMS", at=(30, 236)
            ),
            text(30, 253, "(at AWS after 7 to 30 days), caches run out", "small"),
            text(30, 270, "within the TTL, backups are closed too", "small"),
            box(
                20,
                330,
                440,
                52,
                "plain",
                "",
                [
                    "Lookup keys have no successor in place: a new generation",
                    "is a new column with its own index; UNIQUE holds meanwhile.",
                ],
            ),
            text(480, 372, "A disabled KEK: closed until it is enabled.", "small"),
        ],
    )


def attacker() -> str:
    rows = [
        ("a base backup, WAL, a disk", "ciphertext, lengths, equality of lookups, wrapped DEKs", "cipher"),
        ("a dump, SQL as any role, a DBA", "the same, and who reads what when", "cipher"),
        ("write access to tables", "may destroy, or put back an older value of the same row", "plain"),
        ("the database and the KMS login", "everything, while the login lives: the KMS has a log of it", "clear"),
        ("the service's memory", "plaintext in use, cached ciphers, the KMS login", "clear"),
        ("a KMS administrator alone", "no data; may destroy it all", "key"),
        ("a KMS administrator and a backup", "everything in that backup", "clear"),
    ]
    parts = [text(20, 30, "Who holds", "title"), text(330, 30, "has", "title")]
    for n, (who, what, kind) in enumerate(rows):
        y = 44 + n * 44
        parts.append(box(20, y, 270, 34, "plain", "", [who]))
        parts.append(arrow((290, y + 17), (330, y + 17)))
        parts.append(box(330, y, 510, 34, kind, "", [what]))
    return picture(44 + len(rows) * 44 + 10, "What an attacker holds, and what that is worth", parts)


DRAWN = {"crypto_envelope": envelope, "crypto_keys": hierarchy, "crypto_life": life, "crypto_attacker": attacker}


def main() -> None:
    check = "--check" in sys.argv[1:]
    for name, draw in DRAWN.items():
        target = TARGETS / f"{name}.svg"
        if not check:
            target.write_text(draw())
        elif not target.exists() or target.read_text() != draw():
            sys.exit(f"{target.name} is not what it was made from: python scripts/diagrams.py")


if __name__ == "__main__":
    main()

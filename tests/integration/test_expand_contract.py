"""Generated expand, backfill and contract on real servers, with an old and a new release that write meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbsec import backfill
from dbsec.backfill.verify import verify
from dbsec.errors import UsageError
from dbsec.migrations import expand_contract
from dbsec.migrations.expand_contract import definitions, files
from dbsec.migrations.expand_contract.ask import Ask, side, table_name
from dbsec.migrations.expand_contract.place import place_of
from dbsec.migrations.reading.parse import parse_text
from dbsec.migrations.schema.catalog import from_catalog
from dbsec.pg import Conninfo, connect, own

ROWS = 120
PEOPLE = f"""
CREATE SCHEMA shop;
CREATE TABLE shop.area (code text PRIMARY KEY);
INSERT INTO shop.area VALUES ('north'), ('south');
CREATE TABLE shop.people (
  id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name   text NOT NULL,
  phone  text NOT NULL CONSTRAINT people_phone_key UNIQUE CONSTRAINT people_phone_check CHECK (phone <> ''),
  count  int NOT NULL DEFAULT 7 CHECK (count > 0),
  area   text DEFAULT 'north' REFERENCES shop.area (code) ON DELETE SET NULL,
  note   text
);
CREATE INDEX people_phone_idx ON shop.people (lower(phone) text_pattern_ops DESC) WHERE phone IS NOT NULL;
CREATE INDEX people_area_idx ON shop.people (area, id);
INSERT INTO shop.people (name, phone, count, area)
SELECT 'Ada ' || n, '+' || n, n, CASE n % 3 WHEN 0 THEN 'north' WHEN 1 THEN 'south' END
FROM generate_series(1, {ROWS}) n;
"""


@dataclass(frozen=True)
class Steps:
    """The files of one change, and a way to run each."""

    conninfo: Conninfo
    paths: Sequence[Path]

    def text(self, phase: str, *, down: bool = False) -> str:
        (found,) = [p for p in self.paths if f"_{phase}_" in p.name and p.name.endswith(".down.sql") == down]
        return found.read_text()

    def run(self, phase: str, *, down: bool = False, until: str = "") -> None:
        """Run statement by statement, as psql would, before the first one that begins with ``until``."""
        with connect(self.conninfo) as session:
            for statement in parse_text(self.text(phase, down=down)):
                if until and statement.text.startswith(until):
                    return
                session.execute(statement.text.encode())

    def backfill(self) -> None:
        """Fill, then prove it."""
        (path,) = [p for p in self.paths if p.suffix == ".toml"]
        job = backfill.Job.load(path)
        with connect(self.conninfo) as session:
            own.install(session)
        backfill.run(lambda: connect(self.conninfo), job)
        with connect(self.conninfo) as session:
            found = verify(session, job)
        assert found.clean, found
        assert found.rows >= ROWS


Write = Callable[..., Steps]


@pytest.fixture
def shop(database: Any) -> Conninfo:
    conninfo: Conninfo = database.conninfo
    with connect(conninfo) as session:
        session.execute(PEOPLE.encode())
    return conninfo


@pytest.fixture
def write(shop: Conninfo, tmp_path: Path) -> Write:
    def write(kind: str, old: Sequence[str], new: Sequence[str], *, table: str = "shop.people", **more: str) -> Steps:
        with connect(shop) as session:
            schema = from_catalog(session)
            found = schema.table(table_name(table))
            assert found is not None
            exact = definitions.from_catalog(session, found.name)
        place = place_of(schema, exact, found, major=schema.major or 0)
        ask = Ask(found.name, tuple(map(side, old)), tuple(map(side, new)), **more)
        made = files.named(expand_contract.planned(kind, place, ask), tmp_path)
        assert expand_contract.problems(made, schema, major=place.major) == []
        files.write(made)
        return Steps(shop, list(made))

    return write


def _rows(conninfo: Conninfo, query: str, *params: object) -> list[Any]:
    with connect(conninfo) as session:
        return session.execute(query.encode(), params or None).fetchall()


def _shape(conninfo: Conninfo) -> list[Any]:
    """What the table is to its users; the order of columns and the numbers of dropped ones are not."""
    return _rows(
        conninfo,
        """
        SELECT 'column', attname, format_type(atttypid, atttypmod), attnotnull::text,
               (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = attrelid AND adnum = attnum)
          FROM pg_attribute WHERE attrelid = 'shop.people'::regclass AND attnum > 0 AND NOT attisdropped
        UNION ALL SELECT 'index', relname, pg_get_indexdef(indexrelid), indisvalid::text, NULL
          FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = 'shop.people'::regclass
        UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid), convalidated::text, NULL
          FROM pg_constraint WHERE conrelid = 'shop.people'::regclass
        UNION ALL SELECT 'trigger', tgname, NULL, NULL, NULL
          FROM pg_trigger WHERE tgrelid = 'shop.people'::regclass AND NOT tgisinternal
        UNION ALL SELECT 'function', proname, NULL, NULL, NULL FROM pg_proc WHERE pronamespace = 'shop'::regnamespace
        ORDER BY 1, 2""",
    )


# --- each kind, from end to end --------------------------------------------------------------------------------------

SPLIT = (
    ["name = first || ' ' || last"],
    ["first text = split_part(name, ' ', 1)", "last text = split_part(name, ' ', 2)"],
)
MERGED = ["name = split_part(who, '|', 1)", "note = nullif(split_part(who, '|', 2), '')"]
KINDS: dict[str, tuple[str, Sequence[str], Sequence[str], dict[str, str]]] = {
    "rename": ("rename-column", ["phone"], ["mobile"], {}),
    "rename with a default and a foreign key": ("rename-column", ["area"], ["region"], {}),
    "int to bigint": ("change-type", ["count"], ["count_v2 bigint"], {}),
    "text to varchar": ("change-type", ["phone"], ["phone_v2 varchar(20)"], {}),
    "split": ("split-columns", *SPLIT, {}),
    "merge": ("merge-columns", MERGED, ["who text = name || '|' || coalesce(note, '')"], {}),
    "add, computed": ("add-not-null-column", [], ["initial text = left(name, 1)"], {}),
    "add, with a default": ("add-not-null-column", [], ["token uuid"], {"default": "gen_random_uuid()"}),
}
OLD_RELEASE = (
    "INSERT INTO shop.people (name, phone) VALUES ('Eve Old', %s)",
    "INSERT INTO shop.people (name, phone, count, area, note) VALUES ('Eve All', %s, 3, 'south', 'x')",
    "INSERT INTO shop.people (name, phone, area) VALUES ('Eve Null', %s, NULL)",
    "INSERT INTO shop.people OVERRIDING USER VALUE VALUES (0, 'Eve Bare', %s, 4, 'north', NULL)",
    "UPDATE shop.people SET name = 'Eve New', note = 'y', count = count + 1 WHERE id = 5 AND phone <> %s",
)


def _old_release(conninfo: Conninfo, mark: str) -> None:
    """Run every shape of statement that the old release has."""
    with connect(conninfo) as session:
        for number, statement in enumerate(OLD_RELEASE):
            session.execute(statement.encode(), [f"+old{mark}{number}"])


@pytest.mark.pg(15, 17, 18)
@pytest.mark.parametrize("case", KINDS)
def test_a_change_goes_all_the_way_and_back_from_the_middle(shop: Conninfo, write: Write, case: str) -> None:
    kind, old, new, more = KINDS[case]
    before = _shape(shop)
    steps = write(kind, old, new, **more)
    for attempt in ("first", "again"):
        steps.run("expand")
        _old_release(shop, attempt)
        steps.backfill()
        steps.run("contract", until="BEGIN")
        steps.run("contract", down=True)
        _old_release(shop, f"{attempt}back")
        steps.run("backfill", down=True)
        steps.run("expand", down=True)
        assert _shape(shop) == before
        with connect(shop) as session:
            backfill.forget(session, next(p.stem for p in steps.paths if p.suffix == ".toml"))
    steps.run("expand")
    steps.run("expand")  # again as often as you like
    steps.backfill()
    steps.run("contract")
    _check_final(shop, case)


FINAL: dict[str, tuple[tuple[str, ...], str]] = {
    "rename": (
        (
            "CREATE INDEX people_mobile_idx ON shop.people USING btree (lower(mobile) text_pattern_ops DESC) "
            "WHERE (mobile IS NOT NULL)",
            "UNIQUE (mobile)",
            "CHECK ((mobile <> ''::text))",
        ),
        "SELECT count(*) FROM shop.people WHERE mobile = '+' || id AND id <> 5",
    ),
    "rename with a default and a foreign key": (
        (
            "CREATE INDEX people_region_idx ON shop.people USING btree (region, id)",
            "FOREIGN KEY (region) REFERENCES shop.area(code) ON DELETE SET NULL",
            "'north'::text",
        ),
        "SELECT count(*) FROM shop.people WHERE region IS NOT DISTINCT FROM "
        "CASE mod(id, 3) WHEN 0 THEN 'north' WHEN 1 THEN 'south' END AND id < 120",
    ),
    "int to bigint": (("bigint", "CHECK ((count_v2 > 0))"), "SELECT count(*) FROM shop.people WHERE count_v2 = id"),
    "text to varchar": (
        ("character varying(20)", "UNIQUE (phone_v2)"),
        "SELECT count(*) FROM shop.people WHERE phone_v2 = '+' || id AND id <> 5",
    ),
    "split": (("text",), "SELECT count(*) FROM shop.people WHERE first = 'Ada' AND last = id::text"),
    "merge": (("text",), "SELECT count(*) FROM shop.people WHERE who = 'Ada ' || id || '|'"),
    "add, computed": (("text",), "SELECT count(*) FROM shop.people WHERE initial = 'A'"),
    "add, with a default": (
        ("gen_random_uuid()",),
        "SELECT count(DISTINCT token) FROM shop.people WHERE id <= 120 AND id <> 5",
    ),
}


def _check_final(shop: Conninfo, case: str) -> None:
    """The new column has what stood on the old one, the old one and our own tools are gone, every value is there."""
    shape, (wanted, query) = _shape(shop), FINAL[case]
    told = [str(cell) for row in shape for cell in row[1:]]
    for one in wanted:
        assert one in told, (one, shape)
    left = [row for row in shape if row[0] in ("trigger", "function") or "agrees" in row[1]]
    assert not left
    assert not [row for row in shape if row[0] in ("index", "constraint") and row[3] == "false"]
    assert _rows(shop, query) == [(ROWS - 1,)]  # all but the one that the old release has changed


# --- two releases at once --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sides:
    """One value as each release writes it."""

    old: Callable[[int], dict[str, Any]]
    new: Callable[[int], dict[str, Any]]


SIDES = {
    "rename": Sides(lambda v: {"phone": f"+{v}"}, lambda v: {"mobile": f"+{v}"}),
    "int to bigint": Sides(lambda v: {"count": v}, lambda v: {"count_v2": v}),
    "text to varchar": Sides(lambda v: {"phone": f"+{v}"}, lambda v: {"phone_v2": f"+{v}"}),
    "split": Sides(lambda v: {"name": f"N{v} L{v}"}, lambda v: {"first": f"N{v}", "last": f"L{v}"}),
}
FILLER = {"name": "Mia May", "phone": None, "count": 1}


class Releases:
    """An old and a new release on one table, and what each row must show to both."""

    def __init__(self, session: psycopg.Connection[Any], sides: Sides, steps: Steps, chance: random.Random) -> None:
        self.session, self.sides, self.chance = session, sides, chance
        self.job = next(backfill.Job.load(p) for p in steps.paths if p.suffix == ".toml")
        self.values: dict[int, int] = {}
        self.touched: set[int] = set()
        self.last = chance.randrange(1, 100) * 100_000

    def fresh(self) -> int:
        self.last += 1
        return self.last

    def run(self, text: str, values: Sequence[Any] = ()) -> Any:
        return self.session.execute(text.encode(), values or None)

    def insert(self, columns: dict[str, Any], value: int, tail: str = "") -> None:
        filled = {k: v or f"+f{self.fresh()}" for k, v in FILLER.items() if k not in self.sides.old(0)} | columns
        marks = ", ".join(["%s"] * len(filled))
        text = f"INSERT INTO shop.people ({', '.join(filled)}) VALUES ({marks}) {tail} RETURNING id"
        ((row,),) = self.run(text, list(filled.values())).fetchall()
        self.expect(row, value)

    def update(self, columns: dict[str, Any], value: int | None) -> None:
        row = self.chance.choice(sorted(self.values))
        sets = ", ".join(f"{name} = %s" for name in columns)
        self.run(f"UPDATE shop.people SET {sets} WHERE id = %s", [*columns.values(), row])
        self.expect(row, self.values[row] if value is None else value)

    def copy(self) -> None:
        value = self.fresh()
        columns = {"name": "Mia May", "phone": f"+c{value}", "count": 1} | self.sides.old(value)
        with self.session.cursor().copy(f"COPY shop.people ({', '.join(columns)}) FROM STDIN".encode()) as copy:
            copy.write_row(list(columns.values()))
        ((row,),) = self.run("SELECT max(id) FROM shop.people").fetchall()
        self.expect(row, value)

    def fill(self) -> None:
        """Do a batch as the backfill does, or as somebody at psql does."""
        said = self.chance.choice(["SET LOCAL dbsec.backfill = 'on'", "SELECT 1"])
        with self.session.transaction():
            self.run(said)
            self.run(
                f"UPDATE shop.people SET {self.job.set} WHERE id IN (SELECT id FROM shop.people "
                f"WHERE {self.job.where} ORDER BY id LIMIT 5)"
            )

    def expect(self, row: int, value: int) -> None:
        self.values[row] = value
        self.touched.add(row)
        self.check([row])

    def check(self, rows: Sequence[int]) -> None:
        for row in rows:
            wanted = self.sides.old(self.values[row]) | self.sides.new(self.values[row])
            found = self.run(f"SELECT {', '.join(wanted)} FROM shop.people WHERE id = %s", [row]).fetchone()
            assert found == tuple(wanted.values()), (row, wanted)

    def step(self) -> None:
        v = self.fresh()
        old, new = self.sides.old(v), self.sides.new(v)
        other = self.sides.old(self.fresh())
        self.chance.choice(
            [
                lambda: self.insert(old, v),
                lambda: self.insert(new, v),
                lambda: self.insert(other | new, v),
                lambda: self.insert(old, v, "ON CONFLICT (id) DO NOTHING"),
                lambda: self.update(old, v),
                lambda: self.update(new, v),
                lambda: self.update(other | new, v),
                lambda: self.update({"note": f"n{v}"}, None),
                self.copy,
                self.fill,
                self.fill,
            ]
        )()


@pytest.mark.pg(15, 18)
@pytest.mark.parametrize("case", SIDES)
def test_both_releases_see_every_write_whatever_the_order(shop: Conninfo, write: Write, case: str) -> None:
    """A model tells after each act what both columns of its row must show; the seed is in the failure."""
    kind, old, new, more = KINDS[case]
    steps = write(kind, old, new, **more)
    sides = SIDES[case]
    for seed in (1, 2):
        chance = random.Random(seed)
        with connect(shop) as session:
            releases = Releases(session, sides, steps, chance)
            rows = session.execute("SELECT id FROM shop.people ORDER BY id").fetchall()
            for (row,) in rows:
                columns = sides.old(row)
                sets = ", ".join(f"{name} = %s" for name in columns)
                releases.run(f"UPDATE shop.people SET {sets} WHERE id = %s", [*columns.values(), row])
                releases.values[row] = row
            steps.run("expand")
            for _ in range(90):
                releases.step()
            steps.backfill()
            releases.check(sorted(releases.values))
            backfill.forget(session, releases.job.name)
        steps.run("expand", down=True)


def test_clients_of_both_releases_and_the_backfill_at_once(shop: Conninfo, write: Write) -> None:
    """Threads that write the same rows: none fails, and in the end both columns agree on every row."""
    steps = write(*KINDS["rename"][:3])
    failures: list[BaseException] = []

    def client(column: str, seed: int) -> None:
        chance = random.Random(seed)
        try:
            with connect(shop) as session:
                for n in range(150):
                    row, value = chance.randint(1, ROWS), f"+{column}{seed}-{n}"
                    if n % 4:
                        text = f"UPDATE shop.people SET {column} = %s WHERE id = %s"
                        session.execute(text.encode(), [value, row])
                    else:
                        text = f"INSERT INTO shop.people (name, {column}) VALUES ('x y', %s)"
                        session.execute(text.encode(), [value])
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=client, args=("phone", 1))]
    threads[0].start()
    steps.run("expand")
    threads += [threading.Thread(target=client, args=(c, s)) for c, s in (("phone", 2), ("mobile", 3), ("mobile", 4))]
    for thread in threads[1:]:
        thread.start()
    steps.backfill()
    for thread in threads:
        thread.join()
    assert failures == []
    assert _rows(shop, "SELECT count(*) FROM shop.people WHERE mobile IS DISTINCT FROM phone") == [(0,)]
    steps.run("contract")


def test_without_the_trigger_the_releases_part(shop: Conninfo, write: Write) -> None:
    """The tests above can fail: this is what they would see."""
    steps = write(*KINDS["rename"][:3])
    steps.run("expand")
    with connect(shop) as session:
        session.execute("DROP TRIGGER zz_dbsec_people_mobile ON shop.people")
        releases = Releases(session, SIDES["rename"], steps, random.Random(1))
        with pytest.raises(AssertionError):
            releases.insert({"phone": "+5000", "name": "x"}, 5000)


# --- what a trigger meets --------------------------------------------------------------------------------------------


@pytest.fixture
def renamed(shop: Conninfo, write: Write) -> Iterator[psycopg.Connection[Any]]:
    write(*KINDS["rename"][:3]).run("expand")
    with connect(shop) as session:
        yield session


def _pair(session: psycopg.Connection[Any], row: int = 1) -> Any:
    return session.execute("SELECT phone, mobile FROM shop.people WHERE id = %s", [row]).fetchone()


def test_triggers_of_the_users_own_are_seen(renamed: psycopg.Connection[Any]) -> None:
    """One that changes the row before ours, and one that updates it again after the statement."""
    renamed.execute(
        """
        CREATE FUNCTION shop.trimmed() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN NEW.phone := btrim(NEW.phone); RETURN NEW; END $$;
        CREATE TRIGGER a_trim BEFORE INSERT OR UPDATE ON shop.people FOR EACH ROW EXECUTE FUNCTION shop.trimmed();
        CREATE FUNCTION shop.marked() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN UPDATE shop.people SET phone = NEW.phone || '!' WHERE id = NEW.id; RETURN NULL; END $$;
        CREATE TRIGGER b_mark AFTER UPDATE ON shop.people FOR EACH ROW WHEN (NEW.phone !~ '!$')
          EXECUTE FUNCTION shop.marked();"""
    )
    renamed.execute("UPDATE shop.people SET phone = '  +5x ' WHERE id = 1")
    assert _pair(renamed) == ("+5x!", "+5x!")
    renamed.execute("UPDATE shop.people SET mobile = '+6x' WHERE id = 1")
    assert _pair(renamed) == ("+6x!", "+6x!")


def test_our_trigger_is_the_last_of_the_table(shop: Conninfo, write: Write) -> None:
    with connect(shop) as session:
        session.execute(
            """
            CREATE FUNCTION shop.late() RETURNS trigger LANGUAGE plpgsql AS
              $$ BEGIN NEW.phone := NEW.phone || '?'; RETURN NEW; END $$;
            CREATE TRIGGER zzz_late BEFORE INSERT OR UPDATE ON shop.people FOR EACH ROW EXECUTE FUNCTION shop.late();"""
        )
        write(*KINDS["rename"][:3]).run("expand")
        session.execute("UPDATE shop.people SET phone = '+x' WHERE id = 1")
        assert _pair(session) == ("+x?", "+x?")


def test_upserts_of_both_releases(renamed: psycopg.Connection[Any]) -> None:
    upsert = (
        "INSERT INTO shop.people (name, {0}) VALUES ('n', %s) ON CONFLICT ({0}) DO UPDATE SET {0} = EXCLUDED.{0} || %s"
    )
    renamed.execute(upsert.format("phone").encode(), ["+1", "a"])
    assert _pair(renamed) == ("+1a", "+1a")
    renamed.execute(upsert.format("mobile").encode(), ["+1a", "b"])
    assert _pair(renamed) == ("+1ab", "+1ab")


def test_null_and_defaults_of_both_releases(shop: Conninfo, write: Write) -> None:
    """An explicit NULL is a value, on either side, also where the column has a default."""
    steps = write(*KINDS["rename with a default and a foreign key"][:3])
    steps.run("expand")
    query = "INSERT INTO shop.people (name, phone{column}) VALUES ('n', {phone}{value}) RETURNING area, region"
    cases = {
        ("", ""): ("north", "north"),
        (", area", ", NULL"): (None, None),
        (", region", ", NULL"): (None, None),
        (", area", ", 'south'"): ("south", "south"),
        (", region", ", 'south'"): ("south", "south"),
        (", area, region", ", 'north', 'south'"): ("south", "south"),
        (", region", ", DEFAULT"): ("north", "north"),
    }
    for number, ((column, value), wanted) in enumerate(cases.items()):
        text = query.format(column=column, value=value, phone=f"'+d{number}'")
        assert _rows(shop, text) == [wanted], (column, value)
    steps.backfill()
    assert _rows(shop, "UPDATE shop.people SET region = NULL WHERE id = 3 RETURNING area, region") == [(None, None)]


def test_what_one_side_cannot_hold(shop: Conninfo, write: Write) -> None:
    """The old release is never stopped; the new one is told; and the contract finds the row."""
    steps = write("change-type", ["phone = '+' || number"], ["number int = substr(phone, 2)::int"])
    steps.run("expand")
    steps.backfill()
    with connect(shop) as session:
        row = session.execute("INSERT INTO shop.people (name, phone) VALUES ('n', 'call me') RETURNING number")
        assert row.fetchone() == (None,)
        session.execute("UPDATE shop.people SET phone = 'no' WHERE id = 2")
        assert session.execute("SELECT number FROM shop.people WHERE id = 2").fetchone() == (None,)
    with pytest.raises(psycopg.errors.DataError):
        steps.run("contract")
    steps.run("contract", down=True)
    with connect(shop) as session:
        session.execute("DELETE FROM shop.people WHERE phone IN ('call me', 'no')")
    steps.run("contract")


def test_a_value_beyond_the_old_type_is_refused_until_contract(shop: Conninfo, write: Write) -> None:
    steps = write(*KINDS["int to bigint"][:3])
    steps.run("expand")
    with connect(shop) as session:
        with pytest.raises(psycopg.errors.NumericValueOutOfRange):
            session.execute("UPDATE shop.people SET count_v2 = 3000000000 WHERE id = 1")
        steps.backfill()
        steps.run("contract")
        session.execute("UPDATE shop.people SET count_v2 = 3000000000 WHERE id = 1")


def test_the_new_release_keeps_what_the_old_shape_cannot_tell(shop: Conninfo, write: Write) -> None:
    """'Ana Maria' 'Silva' reads as 'Ana Maria Silva', which splits otherwise: neither touch nor backfill may do so."""
    steps = write("split-columns", *SPLIT)
    steps.run("expand")
    with connect(shop) as session:
        session.execute("UPDATE shop.people SET first = 'Ana Maria', last = 'Silva' WHERE id = 1")
        session.execute("UPDATE shop.people SET note = 'touched' WHERE id = 1")
        steps.backfill()
        row = session.execute("SELECT name, first, last FROM shop.people WHERE id = 1").fetchone()
        assert row == ("Ana Maria Silva", "Ana Maria", "Silva")
    steps.run("contract")


def test_the_contract_stops_at_rows_that_do_not_agree(shop: Conninfo, write: Write) -> None:
    """Nothing is dropped before the proof: here the backfill never ran."""
    steps = write(*KINDS["rename with a default and a foreign key"][:3])
    steps.run("expand")
    with pytest.raises(psycopg.errors.CheckViolation, match="people_region_agrees"):
        steps.run("contract")
    assert _rows(shop, "SELECT count(area) > 0 FROM shop.people") == [(True,)]


def test_a_role_with_rights_on_old_columns_alone_goes_on(shop: Conninfo, write: Write) -> None:
    """The trigger runs as the caller and issues no statement: nobody needs a right on the new column."""
    with connect(shop) as session:
        session.execute(
            "DROP ROLE IF EXISTS dbsec_few; CREATE ROLE dbsec_few; GRANT USAGE ON SCHEMA shop TO dbsec_few;"
            "GRANT SELECT, INSERT (name, phone), UPDATE (phone) ON shop.people TO dbsec_few"
        )
        write(*KINDS["rename"][:3]).run("expand")
        session.execute("SET ROLE dbsec_few")
        session.execute("UPDATE shop.people SET phone = '+few' WHERE id = 1")
        session.execute("INSERT INTO shop.people (name, phone) VALUES ('n', '+few2')")
        session.execute("RESET ROLE")
        assert _pair(session) == ("+few", "+few")
        session.execute("DROP OWNED BY dbsec_few; DROP ROLE dbsec_few")


# --- what is refused -------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, str, Sequence[str], Sequence[str], dict[str, str], str]] = {
    "a primary key": ("", "change-type", ["id"], ["id_v2 bigint"], {}, "computed by PostgreSQL"),
    "a view": ("CREATE VIEW shop.v AS SELECT phone FROM shop.people", "rename-column", ["phone"], ["m"], {}, "view"),
    "a generated column": (
        "ALTER TABLE shop.people ADD COLUMN g text GENERATED ALWAYS AS (upper(phone)) STORED",
        "rename-column",
        ["phone"],
        ["m"],
        {},
        "generated column 'g'",
    ),
    "a policy": (
        "CREATE POLICY p ON shop.people USING (area = current_user)",
        "rename-column",
        ["area"],
        ["m"],
        {},
        "policy 'p'",
    ),
    "a trigger's column": (
        "CREATE FUNCTION shop.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER tg BEFORE UPDATE OF phone ON shop.people FOR EACH ROW EXECUTE FUNCTION shop.f()",
        "rename-column",
        ["phone"],
        ["m"],
        {},
        "trigger 'tg'",
    ),
    "a referenced column": (
        "CREATE TABLE shop.calls (phone text REFERENCES shop.people (phone))",
        "rename-column",
        ["phone"],
        ["m"],
        {},
        "referenced by",
    ),
    "a sequence": ("ALTER TABLE shop.people ADD COLUMN n serial", "rename-column", ["n"], ["m"], {}, "owns a sequence"),
    "no such column": ("", "rename-column", ["fax"], ["m"], {}, "no column 'fax'"),
    "a column that is there": ("", "rename-column", ["phone"], ["note"], {}, "already"),
    "two old columns": ("", "rename-column", ["phone", "note"], ["m"], {}, "stands once"),
    "an option of another kind": ("", "rename-column", ["phone"], ["m"], {"python": "a:b"}, "means nothing"),
    "another column read": ("", "change-type", ["phone"], ["m int = count"], {}, "computed from the other alone"),
    "a function without its schema": (
        "CREATE FUNCTION shop.norm(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)'",
        "change-type",
        ["phone"],
        ["m text = norm(phone)"],
        {},
        "without its schema",
    ),
    "an inheritance": (
        "CREATE TABLE shop.special () INHERITS (shop.people)",
        "rename-column",
        ["phone"],
        ["m"],
        {},
        "inheritance",
    ),
    "no value": ("", "add-not-null-column", [], ["x int"], {}, "no value"),
    "a default that reads": ("", "add-not-null-column", [], ["x int"], {"default": "count"}, "reads a column"),
    "a unique column without lookup": ("", "encrypt-column", ["phone"], ["e"], {"python": "a:b"}, "unique"),
    "no function that encrypts": ("", "encrypt-column", ["phone"], ["e"], {"lookup": "b"}, "no function"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_carried_through_is_refused_before_a_file_is_written(
    shop: Conninfo, write: Write, tmp_path: Path, case: str
) -> None:
    setup, kind, old, new, more, said = REFUSED[case]
    if setup:
        with connect(shop) as session:
            session.execute(setup.encode())
    with pytest.raises(UsageError, match=said) as refused:
        write(kind, old, new, **more)
    assert refused.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["json[]", "shop.odd"])
def test_a_type_without_equality_in_pg_catalog_stops_no_write(shop: Conninfo, write: Write, kind: str) -> None:
    with connect(shop) as session:
        session.execute(f"CREATE DOMAIN shop.odd AS json; ALTER TABLE shop.people ADD extra {kind}".encode())
    steps = write("rename-column", ["extra"], ["more"])
    steps.run("expand")
    with connect(shop) as session:
        value = "{1}" if kind == "json[]" else "1"
        session.execute("UPDATE shop.people SET extra = %s WHERE id = 1", [value])
    steps.backfill()
    assert _rows(shop, "SELECT more::text FROM shop.people WHERE id = 1") == [(value,)]


def test_the_way_back_of_a_contract_that_has_ended_changes_nothing(shop: Conninfo, write: Write) -> None:
    steps = write("rename-column", ["phone"], ["mobile"])
    steps.run("expand")
    steps.backfill()
    steps.run("contract")
    before = _shape(shop)
    with pytest.raises(psycopg.errors.UndefinedColumn):
        steps.run("contract", down=True)
    assert _shape(shop) == before

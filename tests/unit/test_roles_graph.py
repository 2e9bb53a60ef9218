"""The pictures of a model: shapes that the report draws."""

from __future__ import annotations

from pathlib import Path

from dbsec.pg import Conninfo
from dbsec.roles.changes import Change, Plan
from dbsec.roles.desired import Model
from dbsec.roles.drill import RolesTarget, drills
from dbsec.roles.graph import exhibit, matrix

MODEL = Model.load(Path(__file__).resolve().parents[2] / "db" / "roles.toml")


def test_every_end_of_an_edge_is_a_node() -> None:
    shape = exhibit(MODEL)
    nodes = {node["id"] for node in shape["nodes"]}
    assert {end for edge in shape["edges"] for end in (edge["from"], edge["to"])} == nodes
    assert {node["kind"] for node in shape["nodes"]} == {"login", "group", "owner", "object"}
    assert not [edge for edge in shape["edges"] if edge["kind"] == "danger"]


def test_the_matrix_counts_the_rights_of_groups() -> None:
    shape = matrix(MODEL)
    rows = {row[0]: dict(zip(shape["columns"], row, strict=True)) for row in shape["rows"]}
    assert rows["app_gateway"]["app.orders"] == "SIUD"
    assert rows["app_bi"]["app.users"] == "s"
    assert rows["app_rotator"]["app.orders"] == ""
    assert rows["app_migrator"]["app.orders"] == "owner, by SET ROLE"
    assert rows["app_backup"]["app.users"] == "all, by replication"


def test_a_right_beyond_rows_is_a_danger() -> None:
    raw = MODEL.model_dump(by_alias=True, exclude_unset=True)
    next(one for one in raw["grants"] if one["on"] == "tables")["privileges"] = ["SELECT", "TRUNCATE"]
    edges = exhibit(Model.of(raw))["edges"]
    assert {"from": "app_readwrite", "to": "app.*", "label": "read, TRUNCATE", "kind": "danger"} in edges


def test_a_plan_shows_its_statements_and_the_way_back_in_reverse() -> None:
    plan = Plan((Change("a", "x", "DO 1", "UNDO 1", "because"), Change("lock", "y", "LOCK", "", "for a moment")))
    there, back = plan.render().split("\n\n")
    assert there == "-- 1. a x: because\nDO 1;\n-- 2. lock y: for a moment\nLOCK;"
    assert back == "-- the way back, in this order:\n--   UNDO 1;\n"
    assert len(plan) == 2
    assert not Plan()


def test_every_drill_has_its_own_name_and_a_reference() -> None:
    made = drills(RolesTarget(Conninfo, Conninfo, Conninfo, Path("/nowhere")))
    assert len({(d.control.id, d.name) for d in made}) == len(made)
    assert all(any(ref.startswith("OWASP") for ref in d.control.refs) for d in made)

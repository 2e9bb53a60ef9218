"""A server is restored by one file of Python, in an environment that has nothing of dbsec."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests import by_hand
from tests.backup_bed import cluster_of, make_kek
from tests.restore_bed import Site, site

from dbsec import process
from dbsec.backup import Backup, KeyUnavailable, get_backup, init_repository
from dbsec.backup.base.taking import TakeOptions, take
from dbsec.backup.codec import Codec
from dbsec.backup.recipients import create_recipient
from dbsec.backup.rekey import Targets, rekey
from dbsec.backup.wal.push import push_file
from dbsec.crypto.stream.format import MAGIC
from dbsec.kms import open_kms
from dbsec.lab import ports
from dbsec.pg import connect
from dbsec.progress import Silent
from dbsec.retry import wait_until
from dbsec.testing.canary import Canaries
from dbsec.testing.clusters import Cluster

ROWS = "SELECT count(*), sum(hashtext(t::text)) FROM near t"
FAR = "SELECT count(*), sum(hashtext(t::text)) FROM far t"


@pytest.fixture(scope="module")
def past(cluster_factory: Callable[..., Cluster], server_root: Path) -> Iterator[tuple[Site, dict[str, Backup], list]]:
    with site(cluster_factory, server_root, "by-hand", autovacuum="off") as made:
        (space := made.folder / "space").mkdir()
        if made.owner:
            os.chown(space, *made.owner)
        made.sql(
            f"CREATE TABLESPACE elsewhere LOCATION '{space}'",  # type: ignore[arg-type]
            "CREATE TABLE near AS SELECT i, md5(i::text) FROM generate_series(1, 3000) i",
            "CREATE TABLE far TABLESPACE elsewhere AS SELECT i FROM generate_series(1, 500) i",
        )
        taken = {"server": made.take(compress="server"), "client": made.take(compress="client")}
        taken["ranges"] = made.take(engine="ranges")
        made.sql(
            "INSERT INTO near SELECT i, md5(i::text) FROM generate_series(3001, 4000) i", "DELETE FROM far WHERE i < 9"
        )
        made.archived()
        yield made, taken, [made.sql(ROWS), made.sql(FAR)]


def _start(made: Site, data: Path, wal: Path) -> list:
    """Start a server on what was unpacked, as the page says, and return its rows once it has all WAL."""
    port = ports.free(1)[0]
    (data / "recovery.signal").touch()
    with (data / "postgresql.auto.conf").open("a") as conf:
        conf.write(f"restore_command = 'cp {wal}/%f %p'\nport = {port}\narchive_mode = off\n")
    conf_of = data / "dbsec.conf"
    if conf_of.exists():
        conf_of.write_text(
            "".join(line for line in conf_of.read_text().splitlines(True) if not line.startswith("port"))
        )
    if made.owner:
        owner = f"{made.owner[0]}:{made.owner[1]}"
        process.run(["chown", "-R", "-h", owner, data.parent], cwd=Path("/"))
    instance = replace(made.cluster.instance, data=data, port=port, log=data.parent / f"{data.name}.log")
    try:
        instance.start()
        with connect(made.cluster.admin.but(port=port)) as session:
            wait_until(
                lambda: session.execute("SELECT pg_is_in_recovery()").fetchone() == (False,),
                within_s=30, what="the promotion",
            )  # fmt: skip
            return [session.execute(ROWS).fetchall(), session.execute(FAR).fetchall()]
    finally:
        instance.stop()


@pytest.mark.parametrize("packed", ["server", "client", "ranges"])
def test_base_and_wal_by_hand_give_the_rows(past, packed: str, server_root: Path) -> None:
    made, taken, rows = past
    folder = made.folder / f"hand-{packed}"
    folder.mkdir(mode=0o755)
    (folder / "passphrase").write_text(made.bed.environ["KEK"] + "\n")
    kek = ["--kek", made.bed.folder / "kek.json", "--passphrase", folder / "passphrase"]
    for act in ("base", "wal"):
        done = by_hand.run(folder, made.bed.store_folder, *kek, act, taken[packed].id, folder / act)
        assert (done.returncode, done.stderr) == (0, b"")
    assert _start(made, folder / "base", folder / "wal") == rows


def test_a_hole_in_the_wal_is_told_and_not_left_to_cp(past, tmp_path: Path) -> None:
    made, taken, _ = past
    copy = tmp_path / "store"
    shutil.copytree(made.bed.store_folder, copy)
    segments = sorted(path for path in copy.glob("wal/0*/*/*"))
    later = [path for path in segments if path.name > taken["server"].start_lsn]
    segments[-2].unlink()
    assert later
    (tmp_path / "passphrase").write_text(made.bed.environ["KEK"])
    kek = ["--kek", made.bed.folder / "kek.json", "--passphrase", tmp_path / "passphrase"]
    done = by_hand.run(tmp_path, copy, *kek, "wal", taken["server"].id, tmp_path / "wal")
    assert done.returncode == 1
    assert b"WAL is missing before" in done.stderr


def test_after_a_rekey_the_new_kek_alone(past, tmp_path: Path) -> None:
    made, taken, _ = past
    uri = make_kek(tmp_path / "new.json", made.bed.environ)
    rekey(made.bed.again(), Targets(open_kms(uri, environ=made.bed.environ)))
    (tmp_path / "passphrase").write_text(made.bed.environ["KEK"])
    kek = ["--kek", tmp_path / "new.json", "--passphrase", tmp_path / "passphrase"]
    done = by_hand.run(tmp_path, made.bed.store_folder, *kek, "base", taken["server"].id, tmp_path / "base")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "base" / "PG_VERSION").exists()


def test_nothing_in_the_repository_is_in_clear(past) -> None:
    made, _, _ = past
    marker = f"marker-{secrets.token_hex(16)}"
    with connect(made.cluster.admin) as session:
        session.execute("CREATE TABLE marked AS SELECT %s::text AS t, i FROM generate_series(1, 50) i", [marker])
    made.sql("CHECKPOINT")
    made.take(compress="client")
    made.archived()
    canaries = Canaries({"marker": marker, "KEK": made.bed.environ["KEK"]})
    assert canaries.in_files(made.cluster.instance.data).hits  # it is where it would be found
    made.bed.repository.put("notes/marked", marker.encode() * 1000, codec=Codec.NONE)
    scan = canaries.in_files(made.bed.store_folder)
    assert (scan.hits, scan.unread) == (frozenset(), ())
    files = [path for path in made.bed.store_folder.rglob("*") if path.is_file()]
    sealed = [path for path in files if path.read_bytes()[:4] == MAGIC]
    rest = {path.relative_to(made.bed.store_folder).parts[0] for path in set(files) - set(sealed)}
    assert rest == {"repository.json", "keys"}
    assert len(sealed) > 5


def test_a_host_that_only_writes_is_restored_with_two_keys(past, tmp_path: Path) -> None:
    """It has a public key and the content key; whoever restores by hand has the private one, and no KMS."""
    made, _, _ = past
    keys = made.bed.repository.keys
    recipient = create_recipient(keys)
    (tmp_path / "content").write_text(keys.content().hex())
    (tmp_path / "content").chmod(0o600)
    told = {"kms": "", "recipient": recipient.public.hex(), "content_key": f"file:{tmp_path}/content"}
    settings = made.bed.settings.model_copy(update=told)
    host = init_repository(settings, cluster_of(made.cluster.admin), environ={})
    backup = take(host, made.cluster.admin, TakeOptions(), progress=Silent())
    host = init_repository(settings, cluster_of(made.cluster.admin), environ={})  # it starts again
    segment = next(path for path in sorted((made.cluster.instance.data / "pg_wal").iterdir()) if len(path.name) == 24)
    push_file(host, segment)
    with pytest.raises(KeyUnavailable, match="only writes"):
        get_backup(host, backup.id)
    name = f"recipients/{recipient.holder.removeprefix('x25519:')}"
    private = keys.opened(f"keys/{name}.json")
    (tmp_path / "keys").write_text(f"{name} {private.hex()}\ncontent {keys.content().hex()}\n")
    done = by_hand.run(tmp_path, made.bed.store_folder, "--keys", "keys", "base", backup.id, tmp_path / "base")
    assert (done.returncode, done.stderr) == (0, b"")
    argv = [
        made.cluster.instance.binaries.program("pg_verifybackup"),
        "--no-parse-wal",
        "--ignore=tablespace_map",
        tmp_path / "base",
    ]
    assert process.run(argv, cwd=tmp_path, env=made.cluster.instance.binaries.env)
    assert get_backup(made.bed.again(), backup.id) == backup

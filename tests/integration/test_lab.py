"""The lab as it stands: every server answers over TLS that the lab's CA proves, and keeps its secrets to itself."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import stat
import subprocess
import tempfile
from pathlib import Path

import boto3
import httpx
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from dbsec import retry
from dbsec.errors import ConnectError, LabError
from dbsec.lab import lab, ports
from dbsec.lab.lab import Plan
from dbsec.pg import Conninfo, connect
from dbsec.pg.instance import Instance
from dbsec.progress import Silent
from dbsec.secret import Secret
from dbsec.testing import proc
from dbsec.testing.canary import Canaries
from dbsec.tls.ca import Authority


@pytest.fixture(scope="module")
def plan(server_root):
    home = Path(tempfile.mkdtemp(prefix="lab-", dir=server_root))
    home.chmod(0o711)  # as dbsec makes it: the servers may pass
    yield Plan(home / "lab", server_root / "programs")
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def running(plan):
    made = lab.up(plan, progress=Silent())
    yield made
    made.down()


@pytest.fixture(scope="module")
def facts(running):
    return lab.load(running.folder).facts


@pytest.fixture
def another_ca(tmp_path):
    path = tmp_path / "another.crt"
    path.write_bytes(Authority.create("another CA", days=1).certificate)
    return path


def standby_of(running: lab.Lab) -> Conninfo:
    return running.admin.but(port=running.standby.port)


# --- PostgreSQL


def test_postgresql_answers_over_tls_that_is_verified(running):
    for conninfo in (running.admin, standby_of(running)):
        assert conninfo.params["sslmode"] == "verify-full"
        with connect(conninfo) as session:
            row = session.execute("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
        assert row == (True, "TLSv1.3")


def test_another_ca_or_name_does_not_prove_it(running, another_ca):
    with pytest.raises(ConnectError, match="certificate verify failed"):
        connect(running.admin.but(sslrootcert=another_ca))
    with pytest.raises(ConnectError, match="does not match host name"):
        connect(running.admin.but(host="db.example.org"))


def test_postgresql_refuses_what_is_in_clear(running):
    for conninfo in (running.admin, standby_of(running)):
        with pytest.raises(ConnectError, match="no encryption") as refused:
            connect(conninfo.but(sslmode="disable", sslrootcert=None))
        assert "no pg_hba.conf entry" in str(refused.value)


def test_a_wrong_password_is_refused(running):
    with pytest.raises(ConnectError, match="password authentication failed"):
        connect(running.admin.but(password=Secret("wrong-password")))


def test_the_standby_streams_and_is_read_only(running):
    with connect(running.admin) as primary, connect(standby_of(running)) as standby:
        (state,) = primary.execute("SELECT state FROM pg_stat_replication").fetchone()
        assert state == "streaming"
        primary.execute("CREATE TABLE seen_on_the_standby AS SELECT 42 AS n")
        primary.execute("SELECT pg_switch_wal()")
        found = "SELECT count(*) FROM pg_tables WHERE tablename = 'seen_on_the_standby'"
        retry.wait_until(
            lambda: standby.execute(found).fetchone() == (1,), within_s=20, what="the table on the standby"
        )
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            standby.execute("DROP TABLE seen_on_the_standby")


def test_the_standby_encrypts_its_replication(running):
    with connect(running.admin) as primary:
        row = primary.execute("SELECT ssl FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)").fetchone()
    assert row == (True,)


# --- OpenBao


def bao(facts, ca, **headers):
    return httpx.Client(
        base_url=facts["openbao"]["address"],
        verify=ssl.create_default_context(cafile=str(ca)),
        headers=headers,
        trust_env=False,
    )


def test_openbao_is_unsealed_and_proves_itself(facts, another_ca):
    with bao(facts, facts["ca"]) as client:
        health = client.get("/v1/sys/health")
    assert health.status_code == 200
    assert (health.json()["initialized"], health.json()["sealed"]) == (True, False)
    with bao(facts, another_ca) as client, pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        client.get("/v1/sys/health")


def test_openbao_speaks_nothing_but_tls(facts):
    plain = facts["openbao"]["address"].replace("https:", "http:")
    assert httpx.get(f"{plain}/v1/sys/health", trust_env=False).status_code == 400


def test_openbao_knows_its_token_and_no_other(facts):
    token = Path(facts["openbao"]["token"]).read_text().strip()
    for value, status in ((token, 200), ("s.wrong", 403)):
        with bao(facts, facts["ca"], **{"X-Vault-Token": value}) as client:
            assert client.get("/v1/auth/token/lookup-self").status_code == status
    with bao(facts, facts["ca"]) as client:
        assert client.get("/v1/auth/token/lookup-self").status_code == 403


def test_openbao_encrypts_with_a_key_that_stays_there(facts):
    token = Path(facts["openbao"]["token"]).read_text().strip()
    with bao(facts, facts["ca"], **{"X-Vault-Token": token}) as client:
        client.post("/v1/transit/keys/of-a-test").raise_for_status()
        made = client.post("/v1/transit/datakey/plaintext/of-a-test").raise_for_status().json()["data"]
        body = {"ciphertext": made["ciphertext"]}
        opened = client.post("/v1/transit/decrypt/of-a-test", json=body).raise_for_status().json()["data"]
        assert opened["plaintext"] == made["plaintext"]
        assert client.get("/v1/transit/export/encryption-key/of-a-test").status_code == 400


def test_openbao_audits_without_the_token(running, facts):
    token = Path(facts["openbao"]["token"]).read_text().strip()
    audit = (running.folder / "logs/openbao-audit.log").read_text()
    assert '"path":"auth/userpass/login/admin"' in audit
    assert token not in audit


# --- S3


def s3(facts, ca=None, **other):
    credentials = dict(
        line.split(" = ") for line in Path(facts["objectstore"]["credentials"]).read_text().splitlines()[1:]
    )
    return boto3.client(
        "s3",
        endpoint_url=facts["objectstore"]["address"],
        region_name="us-east-1",
        verify=str(ca or facts["ca"]),
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}),
        **{**credentials, **other},
    )


def test_s3_keeps_versions(facts):
    client, bucket = s3(facts), facts["objectstore"]["bucket"]
    versions = [client.put_object(Bucket=bucket, Key="of-a-test", Body=body)["VersionId"] for body in (b"one", b"two")]
    assert len(set(versions)) == 2
    old = client.get_object(Bucket=bucket, Key="of-a-test", VersionId=versions[0])
    assert old["Body"].read() == b"one"


def test_s3_does_not_delete_what_is_locked(facts):
    client, bucket = s3(facts), facts["objectstore"]["bucket"]
    until = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": "2100-01-01T00:00:00Z"}
    version = client.put_object(Bucket=bucket, Key="locked", Body=b"kept", **until)["VersionId"]
    with pytest.raises(ClientError) as refused:
        client.delete_object(Bucket=bucket, Key="locked", VersionId=version)
    assert refused.value.response["Error"]["Code"] == "AccessDenied"
    assert client.get_object(Bucket=bucket, Key="locked", VersionId=version)["Body"].read() == b"kept"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"aws_secret_access_key": "not-the-secret"}, "SignatureDoesNotMatch"),
        ({"aws_access_key_id": "nobody"}, "InvalidAccessKeyId"),
    ],
)
def test_s3_refuses_other_credentials(facts, wrong, code):
    with pytest.raises(ClientError) as refused:
        s3(facts, **wrong).list_objects_v2(Bucket=facts["objectstore"]["bucket"])
    assert refused.value.response["Error"]["Code"] == code


def test_s3_refuses_a_request_without_signature_and_without_tls(facts):
    url = f"{facts['objectstore']['address']}/{facts['objectstore']['bucket']}/lab/ready"
    reply = httpx.get(url, verify=ssl.create_default_context(cafile=facts["ca"]), trust_env=False)
    assert reply.status_code == 403
    assert httpx.get(url.replace("https:", "http:"), trust_env=False).status_code == 400


def test_s3_proves_itself_to_its_ca_only(facts, another_ca):
    with pytest.raises(BotoCoreError, match="CERTIFICATE_VERIFY_FAILED"):
        s3(facts, another_ca).list_buckets()


# --- what it leaves around


def test_nothing_is_readable_by_others_but_certificates(running):
    folders = [running.folder, *(p for p in running.folder.rglob("*") if p.is_dir())]
    open_ = [p for p in running.folder.rglob("*") if not p.is_dir() and stat.S_IMODE(p.lstat().st_mode) & 0o077]
    assert not any(stat.S_IMODE(p.stat().st_mode) & 0o066 for p in (running.folder, running.folder / "secrets"))
    assert {p.suffix for p in open_ if not _inside_closed(p, running.folder)} <= {".crt"}
    assert len(folders) > 10


def _inside_closed(path, top):
    """A server's own folder may hold what it likes as long as nobody else may enter it."""
    return any(not stat.S_IMODE(p.stat().st_mode) & 0o077 for p in path.parents if top in p.parents)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has servers of another account")
def test_what_we_read_and_run_is_not_the_servers(running):
    """Whoever takes a server over must not be able to replace lab.json, a log that we copy, or a module."""
    for path in (running.folder, running.folder / "lab.json", running.folder / "secrets", running.folder / "ca.crt"):
        assert path.stat().st_uid == 0
    assert running.site.account.uid != 0


def test_every_server_listens_on_loopback_alone(running):
    pids = [server.pid for server in lab.load(running.folder).servers.values()]
    opened = {port for port, _ in proc.listening(proc.tree(*pids))}
    recorded = {port for server in lab.load(running.folder).servers.values() for port in server.ports.values()}
    assert opened == recorded
    listens = "\n".join(Path(f"/proc/net/{table}").read_text() for table in ("tcp", "tcp6"))
    for port in opened:
        addresses = {line.split()[1] for line in listens.splitlines() if f":{port:04X} " in line and " 0A " in line}
        assert addresses == {f"0100007F:{port:04X}"}


def test_no_secret_is_in_a_log_a_data_file_an_argument_or_an_environment(running):
    secrets = {p.name: p.read_bytes().strip() for p in (running.folder / "secrets").iterdir() if p.name != "pgpass"}
    credentials = secrets.pop("objectstore.credentials").decode()
    secrets["s3"] = credentials.rpartition(" = ")[2]
    assert set(secrets) == {"postgres", "openbao.seal", "openbao.admin", "openbao.token", "s3"}
    canaries = Canaries(secrets)
    holders = [running.folder / name for name in ("secrets", "objectstore.json", ".standby.pgpass")]
    found = canaries.in_files(running.folder, skip=holders)
    assert (found.hits, found.unread) == (frozenset(), ())
    assert found.looked_at > 1000
    assert {hit.secret for hit in canaries.in_files(*holders).hits} == set(secrets)  # they would have been seen
    processes = canaries.in_processes(*(server.pid for server in lab.load(running.folder).servers.values()))
    assert (processes.hits, processes.unread) == (frozenset(), ())


def test_keys_in_the_description_are_references(running):
    described = json.loads((running.folder / "lab.json").read_text())
    assert (described["magic"], described["format"]) == ("dbsec-lab", 1)
    assert {s["name"] for s in described["servers"]} == {"primary", "standby", "openbao", "objectstore"}
    assert all(s["pid"] > 1 and s["started"] > 0 for s in described["servers"])


def test_a_second_start_is_refused_and_harms_nothing(running, plan):
    before = (running.folder / "lab.json").read_text()
    with pytest.raises(LabError, match="is already up") as refused:
        lab.up(plan, progress=Silent())
    assert refused.value.hint == "dbsec lab status, or dbsec lab down"
    assert (running.folder / "lab.json").read_text() == before
    with connect(running.admin) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_the_exports_work_in_a_shell(running):
    text = "".join(f"export {k}={v}\n" for k, v in lab.exports(lab.load(running.folder)).items())
    script = f"{text}\npsql -Atc 'SELECT current_user' && bao token lookup -format=json"
    bare = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, cwd="/", env=bare)
    assert done.returncode == 0, done.stderr
    user, _, looked_up = done.stdout.partition("\n")
    assert user == "postgres"
    assert json.loads(looked_up)["data"]["display_name"] == "userpass-admin"


def test_a_process_that_got_the_pid_of_a_server_is_not_taken_for_it(running, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n")
    stale = Instance(running.primary.binaries, data, ports.free(1)[0], tmp_path / "log")
    assert stale.running() is None
    assert stale.stop() is False

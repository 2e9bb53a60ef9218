"""The reference service against a clone: ``python scripts/smoke.py KEYS`` with DBSEC_CLONE_DSN, as ``--smoke`` runs it.

KEYS is a JSON file with ``tenant``, ``api_key`` and ``user``: the service starts, lets the tenant in, reads the user.
"""

import json
import os
import secrets
import sys
import tempfile
from pathlib import Path

import httpx

from dbsec import files, process, retry
from dbsec.lab import ports
from dbsec.lab.deployment import deployment_folder

told = json.loads(Path(sys.argv[1]).read_text())
port = ports.free(1)[0]
with tempfile.TemporaryDirectory() as made:
    folder = Path(made)
    files.write_atomic(folder / "dsn", os.environ["DBSEC_CLONE_DSN"])
    files.write_atomic(folder / "session", secrets.token_urlsafe(48))
    env = {"APP_DSN": f"file:{folder}/dsn", "APP_SESSION_KEY": f"file:{folder}/session"}
    argv = [sys.executable, "-P", "-m", "uvicorn", "app.main:app", "--app-dir", deployment_folder()]
    argv += ["--host", ports.LOOPBACK, "--port", str(port), "--no-access-log", "--log-level", "warning"]
    service = process.spawn(argv, cwd=folder, log=folder / "log", env=env)
    try:
        with httpx.Client(base_url=f"http://{ports.LOOPBACK}:{port}", timeout=10, trust_env=False) as client:

            def healthy() -> None:
                client.get("/healthz").raise_for_status()

            retry.retry(healthy, on=(httpx.HTTPError,), within_s=30, what="the service to answer on the clone")
            login = client.post("/v1/login", json={"tenant": told["tenant"], "api_key": told["api_key"]})
            client.headers["Authorization"] = f"Bearer {login.raise_for_status().json()['token']}"
            user = client.get(f"/v1/users/{told['user']}").raise_for_status().json()
    except Exception as exc:  # noqa: BLE001 whatever it is, the clone does not serve
        sys.exit(f"{type(exc).__name__}: {exc}: {process.last_lines(folder / 'log')}")
    finally:
        process.stop(service)
sys.exit(None if user.get("phone") and user.get("email") else "the service reads no phone, or no e-mail address")

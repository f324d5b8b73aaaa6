"""The command line on storages in buckets, as programs of their own: by URL and by a file, with what AWS has to say."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from commands import program
from functionfuse.storage import storage_factory
from functionfuse.storage.base import Storage

if TYPE_CHECKING:
    from s3server import Endpoint, MotoServer, SeaweedServer

pytest.importorskip("s3fs", reason="remote storages are tested where s3fs is installed")


def credentials(endpoint: Endpoint) -> dict[str, str]:
    """Return the environment that AWS has for an endpoint."""
    names = {"AWS_ACCESS_KEY_ID": endpoint.key, "AWS_SECRET_ACCESS_KEY": endpoint.secret}
    return {"AWS_ENDPOINT_URL": endpoint.endpoint_url, **{name: value for name, value in names.items() if value}}


class Shell:
    """Runs commands on a storage in S3, with an environment."""

    def __init__(self, url: str, environment: dict[str, str]) -> None:
        self.url = url
        self.environment = environment

    def __call__(self, command: str, *arguments: object, code: int = 0, storage: object = None) -> str:
        """Run a command, whose output is returned; of a failure, the error, which is one line."""
        *before, name = command.split()
        run = program(*before, name, storage or self.url, *arguments, **self.environment)
        assert run.returncode == code, f"{run.returncode}: {run.stdout}{run.stderr}"
        assert code != 2 or (run.stdout == "" and run.stderr.count("\n") == 1), run.stderr
        return run.stderr if code == 2 else run.stdout

    def rows(self, command: str, *arguments: object, code: int = 0, storage: object = None) -> list[dict[str, Any]]:
        """Run a command and return what it prints as JSON."""
        found: list[dict[str, Any]] = json.loads(self(command, *arguments, "--json", code=code, storage=storage))
        return found


@pytest.fixture
def storage(motoserver: MotoServer) -> Storage:
    """Return a storage with results."""
    storage = storage_factory(motoserver.endpoint.config(motoserver.endpoint.prefix()))
    storage.save("weather", "day", 12.9)
    storage.save("weather", "night", 3.1)
    storage.save("descent", "rate=0.1", {"loss": 0.12})
    return storage


@pytest.fixture
def shell(storage: Storage, motoserver: MotoServer) -> Shell:
    """Return what runs commands on that storage by its URL."""
    return Shell(storage.catalog.path, credentials(motoserver.endpoint))


def test_asking(shell: Shell) -> None:
    """What a folder is asked, a bucket is asked with the credentials and the endpoint of the environment."""
    assert [row["task"] for row in shell.rows("ls", "w*")] == ["day", "night"]
    assert shell.rows("show", "weather", "day")[0]["value"] == 12.9
    assert shell("sql", "SELECT value->>'loss' FROM tasks WHERE workflow = 'descent'") == "0.12\n"
    assert [row["results"] for row in shell.rows("du")] in ([1, 2], [2, 1])
    assert shell.rows("runs") == []


def test_keeping_house(shell: Shell, storage: Storage, motoserver: MotoServer) -> None:
    """Results are verified, pinned and removed, the journal is compacted, and the index built anew."""
    shell("pin", "weather", "day")
    assert shell("gc", "--keep-last", "0", "--workflow", "weather", "--yes").split("\t")[:2] == ["weather", "night"]
    shell("rm", "descent", "rate=0.1", "--yes")
    assert storage.list_tasks("weather") == ["day"]
    assert storage.list_tasks("descent") == []
    assert shell.rows("verify") == []
    bucket = storage._store
    bucket.put("weather/day", b"damaged")
    assert [row["kind"] for row in shell.rows("verify", code=1)] == ["damaged"]
    assert shell.rows("verify", "--repair", code=1)[0]["done"].startswith("moved to .quarantine/")
    assert shell("verify") == ""
    assert shell.rows("compact")[0]["segments"] > 0
    assert shell.rows("rebuild")[0]["events"] >= 6
    events = "SELECT count(*) FROM events WHERE event = 'remove'"
    assert shell("sql", events) == "3\n"


@pytest.mark.parametrize("form", ["toml", "json", "yaml"])
def test_a_file_describes_it(form: str, storage: Storage, motoserver: MotoServer, tmp_path: Path) -> None:
    """A file with the dictionary of the factory is enough, without any environment; also for a URL of fsspec."""
    path, s3fs = storage.catalog.path, motoserver.endpoint.s3fs()
    config = {"kind": "S3", "options": {"path": path, "s3fs": s3fs}}
    if form == "json":
        config = {"kind": "fsspec", "options": {"url": path, "storage_options": s3fs}}
    file = tmp_path / f"storage.{form}"
    if form == "toml":
        options = "\n".join(f'{name} = "{value}"' for name, value in s3fs.items())
        file.write_text(f'kind = "S3"\n[options]\npath = "{path}"\n[options.s3fs]\n{options}\n')
    else:
        file.write_text(json.dumps(config))  # which is YAML, too
    assert [row["task"] for row in Shell(path, {}).rows("ls", "weather", storage=file)] == ["day", "night"]


def test_a_profile(storage: Storage, motoserver: MotoServer, tmp_path: Path) -> None:
    """A profile of AWS gives credentials and endpoint; one that there is not is named."""
    endpoint = motoserver.endpoint
    config, secrets = tmp_path / "config", tmp_path / "credentials"
    config.write_text(f"[profile lab]\nregion = us-east-1\nendpoint_url = {endpoint.endpoint_url}\n")
    secrets.write_text(f"[lab]\naws_access_key_id = {endpoint.key}\naws_secret_access_key = {endpoint.secret}\n")
    files = {"AWS_CONFIG_FILE": str(config), "AWS_SHARED_CREDENTIALS_FILE": str(secrets)}
    assert len(Shell(storage.catalog.path, {**files, "AWS_PROFILE": "lab"}).rows("ls")) == 3
    said = Shell(storage.catalog.path, {**files, "AWS_PROFILE": "other"})("ls", code=2)
    assert "there is no such profile of AWS" in said


def test_a_url_of_fsspec(tmp_path: Path) -> None:
    """Any URL that fsspec knows is asked; looking makes nothing there; what it does not know is told."""
    url = f"file://{tmp_path}/storage"
    shell = Shell(url, {})
    assert f"there is no storage at {url}" in shell("ls", code=2)
    assert list(tmp_path.iterdir()) == []
    storage_factory({"kind": "fsspec", "options": {"url": url}}).save("w", "t", 1)
    assert [row["task"] for row in shell.rows("ls")] == ["t"]
    assert "nosuch://" in shell("ls", code=2, storage="nosuch://bucket/prefix")


def test_a_storage_that_lost_its_catalog(storage: Storage, shell: Shell) -> None:
    """Results alone are a storage; its catalog comes back."""
    bucket = storage._store
    for entry in bucket.ls(".catalog/").entries:
        bucket.delete(entry.key)
    assert len(shell.rows("ls")) == 3


def test_what_is_not_there(shell: Shell, motoserver: MotoServer, s3server: SeaweedServer) -> None:
    """No storage, no bucket, no right and no server are four errors of one line; looking makes nothing."""
    nothing = f"s3:/{motoserver.endpoint.prefix()}"
    assert f"there is no storage at {nothing}" in shell("ls", code=2, storage=nothing)
    assert motoserver.endpoint.objects(nothing[4:]) == {}
    assert f"there is no storage at {shell.url}/weather" in shell("ls", code=2, storage=f"{shell.url}/weather")
    said = shell("ls", code=2, storage="s3://no-such-bucket/x")
    assert f"at {motoserver.endpoint.endpoint_url}: there is no bucket 'no-such-bucket'" in said  # of the environment
    wrong = {**credentials(s3server.endpoint), "AWS_SECRET_ACCESS_KEY": "wrong"}
    assert "access is refused" in Shell("s3://results/x", wrong)("ls", code=2)
    nobody = {**credentials(motoserver.endpoint), "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    assert "cannot be reached" in Shell("s3://results/x", nobody)("ls", code=2)
    assert "no credentials" in Shell("s3://results/x", {})("ls", code=2)
    assert "'nothing'" in shell_error(shell, "show", "weather", "nothing")


class NotFound(BaseHTTPRequestHandler):
    """Answers as a web server does that knows nothing."""

    def do_GET(self) -> None:
        """Answer every GET."""
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_server_that_is_no_s3(motoserver: Any) -> None:
    """That a web server knows no such page says nothing of what is stored."""
    with ThreadingHTTPServer(("127.0.0.1", 0), NotFound) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        wrong = {**credentials(motoserver.endpoint), "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
        assert "something that is no S3" in Shell("s3://results/x", wrong)("ls", code=2)
        server.shutdown()
        thread.join()


def shell_error(shell: Shell, *arguments: object) -> str:
    """Run a command that finds nothing."""
    command, *rest = arguments
    run = program(command, shell.url, *rest, **shell.environment)
    assert run.returncode == 1
    return run.stderr


def test_who_may_read_only(s3server: SeaweedServer) -> None:
    """Somebody who may read and list asks and verifies; what writes is refused, and changes nothing."""
    path = s3server.endpoint.prefix()
    storage_factory(s3server.endpoint.config(path)).save("w", "t", {"loss": 1})
    reader = Shell(f"s3:/{path}", credentials(s3server.reader))
    assert [row["task"] for row in reader.rows("ls")] == ["t"]
    assert reader.rows("verify") == []
    before = s3server.endpoint.objects(path)
    assert "access is refused" in reader("pin", "w", "t", code=2)
    run = program("rm", reader.url, "w", "t", "--yes", **reader.environment)
    assert run.returncode == 2
    assert "access is refused" in run.stderr
    assert s3server.endpoint.objects(path) == before

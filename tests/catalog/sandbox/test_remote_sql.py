"""Results of storages in buckets as tables in SQL: fetched for the question, and nothing else."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from catalog.errors import InvalidQuestion
from catalog.store.objects import ObjectStore
from functionfuse.storage import storage_factory
from functionfuse.storage.base import Storage

if TYPE_CHECKING:
    from s3proxy import Proxy
    from s3server import MotoServer

pytest.importorskip("s3fs", reason="remote storages are tested where s3fs is installed")
pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def proxy(motoserver: MotoServer) -> Any:
    """Put a proxy before moto, which counts."""
    from s3proxy import Proxy

    with Proxy(motoserver.endpoint.endpoint_url) as found:
        yield found


@pytest.fixture
def storage(motoserver: MotoServer, proxy: Proxy, temporary: Path) -> Storage:
    """Return a storage with tables, behind the proxy."""
    endpoint = motoserver.endpoint
    storage = storage_factory(endpoint.at(proxy.url).config(endpoint.prefix()))
    storage.register_default_serializers()
    days = pd.date_range("2020", periods=4, name="day")
    storage.save("weather", "pandas", pd.DataFrame({"station": list("abab"), "mean": [1.0, 2, 3, 4]}, index=days))
    storage.save("weather", "arrow", pa.table({"id": range(1000), "text": [str(n) for n in range(1000)]}))
    storage.save("weather", "number", 12.9)
    return storage


def rows(storage: Storage, query: str) -> list[Any]:
    """Return the rows of a query."""
    return list(storage.catalog.sql(query).fetchall())


def test_tables_join(storage: Storage, temporary: Path) -> None:
    """A frame of pandas and a table of Arrow join with each other and the catalog; nothing stays on this machine."""
    query = """
        SELECT station, sum(mean), count(text), any_value(value) FROM result('weather', 'pandas') p
        JOIN result('weather', 'arrow') a ON a.id = p.mean, tasks WHERE task = 'number' GROUP BY ALL ORDER BY station
    """
    assert rows(storage, query) == [("a", 4.0, 2, "12.9"), ("b", 6.0, 2, "12.9")]
    assert list(temporary.iterdir()) == []


def test_only_what_is_named_is_fetched(storage: Storage, proxy: Proxy) -> None:
    """The side files of other results are not requested, and of a query that names none, none."""
    storage.catalog.refresh()
    before = len(proxy.requests)
    assert rows(storage, "SELECT count(*) FROM tasks") == [(3,)]
    assert not [each for each in proxy.requests[before:] if "bigdata" in each.key]
    assert rows(storage, "SELECT count(*) FROM result('weather', 'arrow')") == [(1000,)]
    fetched = {each.key for each in proxy.requests[before:] if "bigdata" in each.key}
    assert len(fetched) == 1


def test_a_large_table_comes_in_pieces(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of the pieces, the table is the same."""
    monkeypatch.setattr("catalog.store.objects._SPAN", 1000)
    assert rows(storage, "SELECT sum(id) FROM result('weather', 'arrow')") == [(499_500,)]


def test_what_is_no_table_or_gone(storage: Storage, temporary: Path) -> None:
    """It is named, with the remedy; a failed question leaves nothing on this machine either."""
    with pytest.raises(InvalidQuestion, match="is no table, it was saved by pickle"):
        rows(storage, "FROM result('weather', 'number')")
    with pytest.raises(InvalidQuestion, match="nothing is stored under these names"):
        rows(storage, "FROM result('weather', 'nothing')")
    bucket = storage._store
    for entry in bucket.ls("weather/bigdata/").entries:
        bucket.delete(entry.key)
    with pytest.raises(InvalidQuestion, match=r"its file s3://.* is gone; remove the task"):
        rows(storage, "SELECT * FROM result('weather', 'arrow'), result('weather', 'pandas')")
    assert list(temporary.iterdir()) == []


def test_an_overwrite_meanwhile(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that was saved anew between the look at the result and the fetching is read as it is then."""
    real = ObjectStore._download

    def late(store: ObjectStore, key: str, path: str) -> None:
        monkeypatch.setattr(ObjectStore, "_download", real)
        storage.save("weather", "arrow", pa.table({"id": [7]}))
        real(store, key, path)

    monkeypatch.setattr(ObjectStore, "_download", late)
    assert rows(storage, "SELECT sum(id) FROM result('weather', 'arrow')") == [(7,)]


@pytest.mark.parametrize(
    "query",
    [
        "FROM read_parquet('s3://results/x.parquet')",
        "FROM result('weather', 'arrow'), read_text('/etc/hostname')",
        "COPY (FROM result('weather', 'arrow')) TO 'stolen.parquet'",
    ],
)
def test_the_box_stays_closed(storage: Storage, query: str) -> None:
    """A query reaches neither the network nor a file."""
    with pytest.raises(InvalidQuestion):
        rows(storage, query)

"""What lies in a bucket, read by boto3 and taken apart by hand, and what several machines' catalogs say of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from functionfuse.testing import read_blob
from s3machine import ABSENT, Machine
from s3server import Endpoint


def lying(endpoint: Endpoint, path: str) -> list[list[Any]]:
    """Return names, id, checksum, size with side files, and time of every result below ``/bucket/prefix``.

    Fails if a blob is torn or a side file that it declares is not there.
    """
    objects = endpoint.objects(path)
    bucket, _, prefix = path.strip("/").partition("/")
    rows = []
    with closing(endpoint.client()) as client:
        for key, size in objects.items():
            if key.startswith(".") or key.count("/") != 1:
                continue
            data = client.get_object(Bucket=bucket, Key=f"{prefix}/{key}")["Body"].read()
            record = read_blob(data).record
            sides = {
                f"{key.split('/')[0]}/bigdata/{record['blob_id']}/{side['name']}": side["size"]
                for side in record.get("side_files", ())
            }
            assert {name: objects.get(name) for name in sides} == sides
            names = ("workflow", "task", "blob_id", "checksum")
            rows.append([*(record[name] for name in names), size + sum(sides.values()), record["saved_at"]])
    return sorted(rows)


def check_agreement(
    endpoint: Endpoint, path: str, machines: Sequence[Machine], patience: float = 0.0
) -> list[list[Any]]:
    """Check that every machine lists what lies in the bucket, each result once; at once, or after so many seconds."""
    end = time.monotonic() + patience
    there = lying(endpoint, path)
    while True:
        found = [machine.ask("listed") for machine in machines]
        if all(rows == there for rows in found) or time.monotonic() > end:
            break
        time.sleep(1.0)
    for rows in found:
        assert rows == there
    return there


@dataclass
class Ledger:
    """What is known of the tasks that writers have of their own: what was reported as done, and what may be."""

    done: dict[str, int] = field(default_factory=dict)
    maybe: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    deaths_within: int = 0

    def take(self, lines: list[str]) -> None:
        """Take in what a writer reported."""
        for line in lines:
            what, number, name = line.split(" ", 2)
            if what == "done":
                self.done[name] = int(number)
                self.maybe.pop(name, None)
                self.steps += 1
            else:
                self.maybe[name] = int(number)

    def settle(self, reader: Machine) -> None:
        """Check that each task reads as reported, or as the step in which its writer died would have left it."""
        self.deaths_within += len(self.maybe)
        names = sorted({*self.done, *self.maybe})
        for name, found in reader.ask("read_all", "own", names).items():
            before = self.done.get(name, ABSENT)
            assert found in (before, self.maybe.get(name, before)), (name, found, before, self.maybe)
            self.done[name] = found
        self.maybe = {}

    def present(self) -> list[str]:
        """Return the tasks that have to be there."""
        return sorted(name for name, number in self.done.items() if number != ABSENT)

"""The command that hands the catalog on as Parquet: export."""

from __future__ import annotations

from typing import Any

import click

from functionfuse._cli_answer import from_object
from functionfuse._cli_options import examples, form_options, given, size, storage_argument, time_options
from functionfuse._cli_output import emit, say
from functionfuse._cli_storage import open_storage
from functionfuse._cli_text import counted


@click.command(
    epilog=examples(
        "export results tasks.parquet",
        "export results events.parquet --table events --since 2026-11-01 --overwrite",
        "export results november.parquet --table events --after october.parquet",
        "export results by-day --table events --partition-by day",
    ),
)
@storage_argument
@click.argument("destination", metavar="DEST", type=click.Path())
@click.option("--table", type=click.Choice(["tasks", "events", "runs"]), default="tasks", show_default=True)
@click.option("--workflow", default="*", metavar="GLOB", help="Only these workflows.")
@click.option("--task", metavar="GLOB", help="Only these tasks.")
@time_options
@click.option("--type", metavar="GLOB", help="Only results of these types, such as 'numpy.*'.")
@click.option("--serializer", help="Only results in which this serializer took part.")
@click.option("--min-size", type=size, metavar="SIZE", help="Only results of at least so many bytes, such as 20MB.")
@click.option("--max-size", type=size, metavar="SIZE", help="Only results of at most so many bytes.")
@click.option("--event", metavar="GLOB", help="Only these kinds of events: save, remove, ...")
@click.option("--status", help="Only runs that ended so.")
@click.option("--backend", help="Only runs on this backend.")
@click.option("--partition-by", type=click.Choice(["workflow", "day"]), help="One folder for each, in the folder DEST.")
@click.option("--after", type=click.Path(), metavar="FILE", help="Only what the export FILE did not have yet.")
@click.option("--overwrite", is_flag=True, help="Write over DEST if it is there.")
@form_options
def export(storage: str, destination: str, table: str, overwrite: bool, form: str | None, **filters: Any) -> None:
    """Write a table of the catalog as Parquet.

    DEST is a path or a URL that fsspec knows. The file tells what it is, and has a digest that audit verify checks.
    Prints the path of each file.
    """
    catalog = open_storage(storage).catalog
    exported = catalog.export(destination, table, overwrite=overwrite, **given(**filters))
    if form:
        return emit(from_object(exported), form)
    for path in exported.paths:
        click.echo(path)
    return say(f"{counted(exported.rows, 'row')}, digest {exported.digest}")

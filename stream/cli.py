"""The console script `nudge`: arguments in, one call out; each command lives in a module of its own.

Settings problems end it with exit code 2, a server that is away with 3, whatever else goes wrong with 1; each is told
on standard error without a traceback, unless `--debug` is given. Modules of commands are loaded when they are called,
so that `nudge --help` answers at once.
"""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from stream.settings import Settings

BAD_SETTINGS = 2
"""Exit code."""


class Commands(TyperGroup):
    """Commands whose errors are told in words."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error ends the process with its code."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            raise typer.Exit(tell(error)) from error


def tell(error: Exception) -> int:
    """Print what went wrong on standard error; the exit code for it."""
    from stream.commands import CommandError
    from stream.delivery.errors import PartitionsChanged
    from stream.settings import BadSettings

    if isinstance(error, BadSettings):
        sys.stderr.write("The settings can't be used:\n" + "".join(f"  {line}\n" for line in str(error).splitlines()))
        return BAD_SETTINGS
    if isinstance(error, PartitionsChanged):
        sys.stderr.write(f"{error}\n")
        return BAD_SETTINGS
    if isinstance(error, CommandError):
        sys.stderr.write(f"{error}\n")
        return error.code
    sys.stderr.write(f"{type(error).__name__}: {error} (`nudge --debug ...` shows where)\n")
    return 1


app = typer.Typer(
    cls=Commands,
    help="Turns a Kafka topic of marketing events into decisions about each person.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
dlq = typer.Typer(help="Look at dead letters, and send them back.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(dlq, name="dlq")
fence = typer.Typer(help="Say where partitions go on.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(fence, name="fence")
models = typer.Typer(
    help="Look at the models, and choose what they score with.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(models, name="models")


class Consent(StrEnum):
    """What an event needs to count."""

    optional = "optional"
    required = "required"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Parked = Annotated[bool, typer.Option("--parked", help="Entries that could not be sent, instead of dead letters.")]
Model = Annotated[str, typer.Argument(help="An outcome's name, or recommend.")]
Version = Annotated[int, typer.Argument(min=0, help="The examples offset that it includes.")]
Files = Annotated[
    list[Path], typer.Argument(help="JSON lines of events, native or Segment, plain or gzip; or CSV or Parquet tables.")
]
Label = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="The files are tables; where 0/1, true/false or yes/no is.")
]
Time = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Tables: what rows go in order of, else as they stand.")
]
Delay = Annotated[
    str,
    typer.Option(metavar="DURATION", help="Tables: how long after its row a label comes (numbers in --time are ms)."),
]
LeftOut = Annotated[
    list[str] | None, typer.Option("--leave-out", metavar="COLUMN", help="Tables: don't learn from it; several times.")
]
Every = Annotated[int, typer.Option(min=1, help="Use new models after so many more examples.")]
Partitions = Annotated[int, typer.Option(min=1, max=10_000, help="Logs: partitions that the topic would have.")]
Consents = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Logs: privacy requests, JSON lines, taken before the events.")
]
ConsentMode = Annotated[
    Consent,
    typer.Option(help="Logs: whether only those count who have granted, instead of all who have not withdrawn."),
]
Page = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the report there, as one page.")]
Reasons = Annotated[list[str] | None, typer.Option("--reason", help="Only this reason; may be given several times.")]


class Source(StrEnum):
    """Topics whose place an operator may choose."""

    events = "events"
    privacy = "privacy"


class Broker(StrEnum):
    """Brokers that the demo can start."""

    embedded = "embedded"
    kafka = "kafka"
    docker = "docker"


@app.callback()
def choose(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Turns a Kafka topic of marketing events into decisions about each person.

    Settings come from NUDGE_* environment variables and nudge.yaml.
    """


def load(**overrides: Any) -> Settings:
    """Build the settings, with those of `overrides` that are given."""
    from stream.settings import load_settings

    return load_settings(**overrides)


@app.command()
def worker(
    http_port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Port of /metrics and /health.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, max=256, help="Processes to run, one a core.")] = None,
) -> None:
    """Run a worker against the configured Kafka and Redis."""
    from stream.settings import load_worker_settings

    given = {"http": {"port": http_port} if http_port is not None else None, "processes": processes}
    settings = load_worker_settings(**{name: value for name, value in given.items() if value is not None})
    if settings.processes == 1:
        work(settings)
        return
    from stream.crew import run_crew

    raise typer.Exit(run_crew(work_and_tell, settings))


def work(settings: Settings) -> None:
    """Run one worker process; returns when it was told to stop and has finished."""
    from stream.commands.connections import name_outages

    # The host takes a second to import: settings that are wrong are told before.
    from stream.process import run_worker

    with name_outages(settings):
        run_worker(settings)


def work_and_tell(settings: Settings) -> int:
    """Run one worker process of several; returns its exit code, what went wrong being told."""
    try:
        work(settings)
    except Exception as error:
        return tell(error)
    return 0


@app.command()
def demo(
    events: Annotated[int | None, typer.Option(min=1, help="Stop after this many events.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.0, help="Events per second; 1000 if not said, 0 for no limit.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End by itself and print one JSON summary.")] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the live page.")] = True,
    broker: Annotated[Broker, typer.Option(help="Which broker to start.")] = Broker.embedded,
) -> None:
    """Replay a real event log through a worker and show what it decides."""
    from stream.demo import run_demo

    raise typer.Exit(run_demo(events=events, rate=rate, json=as_json, browser=browser, broker=broker.value))


@app.command()
def produce(
    file: Annotated[Path, typer.Argument(help="JSON lines, native or Segment, plain or gzip.")],
    topic: Annotated[str | None, typer.Option(help="The settings' topic if unset.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Lines per second.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Send lines that do not decode, too.")] = False,
    consents: Annotated[
        bool, typer.Option("--consents", help="The lines are privacy requests, for the privacy topic.")
    ] = False,
) -> None:
    """Send a file of events, or of consents, to Kafka."""
    from stream.commands.produce import send_file

    report = send_file(load(), file, topic=topic, rate=rate, raw=raw, requests=consents)
    raise typer.Exit(int(report.acknowledged < report.lines))


@app.command()
def sentiment(
    file: Annotated[Path, typer.Argument(help="CSV, JSON lines (plain or gzip) or Parquet.")],
    text: Annotated[str, typer.Option(metavar="COLUMN", help="Where the texts are.")] = "text",
    label: Annotated[
        str, typer.Option(metavar="COLUMN", help="Where negative, neutral or positive is, if known.")
    ] = "label",
    lang: Annotated[str, typer.Option(metavar="COLUMN", help="Where the language's code is, if known.")] = "lang",
    level: Annotated[
        int | None,
        typer.Option(min=0, max=4, help="0 asks the transformer most, 4 not at all; the settings' if fixed, else 0."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write each text's score there, as JSON lines.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score the sentiment of a file's texts and, where they are labelled, say how well that went."""
    from stream.commands.sentiment import score_file
    from stream.commands.texts import Columns

    score_file(load(), file, Columns(text, label, lang), level=level, out=out, as_json=as_json)


@app.command()
def backtest(
    files: Files,
    label: Label = None,
    time: Time = None,
    delay: Delay = "0",
    leave_out: LeftOut = None,
    every: Every = 500,
    partitions: Partitions = 1,
    consent: ConsentMode = Consent.optional,
    consents: Consents = None,
    as_json: AsJson = False,
    html: Page = None,
) -> None:
    """Judge the settings over event logs, or the models over tables, before they go live. No server is asked.

    A log goes through the worker's own stages under the clock of its events; a table is predicted row by row. Whatever
    is predicted is predicted before its label is learned.
    """
    options = {"every": every, "partitions": partitions, "consents": consents, "as_json": as_json, "page": html}
    _backtest(files, label, time, delay, leave_out, consent, **options)


@app.command()
def train(
    files: Files,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Write each model's signed snapshot there.")],
    label: Label = None,
    time: Time = None,
    delay: Delay = "0",
    leave_out: LeftOut = None,
    every: Every = 500,
    partitions: Partitions = 1,
    consent: ConsentMode = Consent.optional,
    consents: Consents = None,
    as_json: AsJson = False,
    html: Page = None,
) -> None:
    """Do what `backtest` does, and keep what was learned.

    A snapshot is opened with models.snapshot_key by `models.lifecycle.snapshot.open_sealed`; its `scoring` scores rows
    (`models.outcomes.scorers.open_scorer`), its `learning` goes on learning (`OutcomeLearner.from_bytes`). A worker
    does not take it over: it learns from its own log.
    """
    options = {"every": every, "partitions": partitions, "consents": consents, "as_json": as_json, "page": html}
    _backtest(files, label, time, delay, leave_out, consent, out=out, **options)


def _backtest(
    files: list[Path],
    label: str | None,
    time: str | None,
    delay: str,
    leave_out: list[str] | None,
    consent: Consent,
    **options: Any,
) -> None:
    from stream.commands.backtest import backtest as judge
    from stream.commands.tables import Columns
    from stream.durations import parse_duration

    if label is None and (time is not None or leave_out or delay != "0"):
        raise typer.BadParameter("--time, --delay and --leave-out are for tables: give their --label, too")
    try:
        late = parse_duration(delay)
    except ValueError as error:
        raise typer.BadParameter(f"--delay: {error}") from None
    columns = None if label is None else Columns(label, time, tuple(leave_out or ()))
    judge(load(clock="event", consent={"mode": consent.value}), files, columns, delay=late, **options)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check broker, topics, Redis, model files and settings, and say what to do."""
    from stream.commands.doctor import show_health

    raise typer.Exit(int(not asyncio.run(show_health(load(), as_json=as_json))))


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show where each partition stands: owner, fence, lag, clock, outbox."""
    from stream.commands.status import show_status

    asyncio.run(show_status(load(), as_json=as_json))


@app.command()
def profile(user: Annotated[str, typer.Argument(help="User id.")], as_json: AsJson = False) -> None:
    """Show what is kept about a person."""
    from stream.commands.profile import show_profile

    asyncio.run(show_profile(load(), user, as_json=as_json))


@app.command()
def tail(
    as_json: Annotated[bool, typer.Option("--json", help="Print each trigger's JSON on one line.")] = False,
    from_start: Annotated[bool, typer.Option("--from-start", help="Begin with the oldest trigger kept.")] = False,
    limit: Annotated[int | None, typer.Option("--max", min=1, help="Stop after this many.")] = None,
) -> None:
    """Print triggers as they come; Ctrl-C ends it."""
    from stream.commands.tail import run_tail

    run_tail(load(), as_json=as_json, from_start=from_start, limit=limit)


@dlq.command("list")
def dlq_list(
    reason: Reasons = None,
    limit: Annotated[int, typer.Option(min=1, help="Show the newest so many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per dead letter.")] = False,
    parked: Parked = False,
) -> None:
    """List dead letters: why, from where, when."""
    if parked:
        from stream.commands.parked import list_parked

        if reason:
            raise typer.BadParameter("--reason is for dead letters; leave it out with --parked")
        asyncio.run(list_parked(load(), limit=limit, as_json=as_json))
        return
    from stream.commands.dlq import list_letters

    asyncio.run(list_letters(load(), reasons=reason or (), limit=limit, as_json=as_json))


@dlq.command("show")
def dlq_show(
    place: Annotated[str, typer.Argument(help="Partition and offset, as `list` prints them: 3/17.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, bytes as base64.")] = False,
) -> None:
    """Show one dead letter with its bytes, which may hold personal data."""
    from stream.commands.dlq import show_letter

    asyncio.run(show_letter(load(), place, as_json=as_json))


@dlq.command("replay")
def dlq_replay(
    reason: Reasons = None,
    everything: Annotated[bool, typer.Option("--all", help="Whatever the reason.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many, the oldest of each partition first.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    parked: Parked = False,
) -> None:
    """Send dead letters back to their source topics, or parked entries on to theirs."""
    if parked:
        from stream.commands.parked import replay_parked

        if reason or everything:
            raise typer.BadParameter("--reason and --all are for dead letters; leave them out with --parked")
        asyncio.run(replay_parked(load(), limit=limit, dry_run=dry_run))
        return
    from stream.commands.dlq import replay_letters

    if bool(reason) == everything:
        raise typer.BadParameter("give --reason, or --all for every reason")
    asyncio.run(replay_letters(load(), reasons=reason or (), limit=limit, dry_run=dry_run))


@fence.callback()
def fence_group() -> None:
    """Say where partitions go on."""


@fence.command("reset")
def fence_reset(
    to_offset: Annotated[int | None, typer.Option(min=0, help="The next offset to apply.")] = None,
    to_time: Annotated[
        str | None, typer.Option(metavar="TIME", help="The first record at or after it, ISO 8601.")
    ] = None,
    to_earliest: Annotated[bool, typer.Option("--to-earliest", help="The first record there is.")] = False,
    to_latest: Annotated[bool, typer.Option("--to-latest", help="Behind the last record there is.")] = False,
    partition: Annotated[
        list[int] | None, typer.Option(min=0, help="Only this one; may be given several times.")
    ] = None,
    source: Annotated[Source, typer.Option(help="Which topic.")] = Source.events,
    clear: Annotated[bool, typer.Option("--clear", help="Delete what the log makes again, and make it again.")] = False,
    drop_outbox: Annotated[bool, typer.Option("--drop-outbox", help="Drop what waits to be sent.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Put partitions at another place of their log; running workers go on there."""
    from schemas.reasons import Rejected
    from schemas.timestamps import read_millis
    from stream.commands.fence import Target, reset_fences

    if sum((to_offset is not None, to_time is not None, to_earliest, to_latest)) != 1:
        raise typer.BadParameter("give one of --to-offset, --to-time, --to-earliest and --to-latest")
    if clear and source is Source.privacy:
        raise typer.BadParameter("--clear is for events: requests make nothing but what they pass on")
    try:
        millis = None if to_time is None else read_millis(to_time, "--to-time")
    except Rejected as error:
        raise typer.BadParameter(error.message) from None
    end: Literal["earliest", "latest"] | None = "earliest" if to_earliest else "latest" if to_latest else None
    done = asyncio.run(
        reset_fences(
            load(),
            source.value,
            partition or (),
            Target(to_offset, millis, end),
            clear=clear,
            drop_outbox=drop_outbox,
            confirm=(lambda _: True) if yes else typer.confirm,
        )
    )
    raise typer.Exit(int(not done))


@models.command("list")
def models_list(as_json: AsJson = False) -> None:
    """List the models: newest version, champion, age, quality, and what was chosen for them."""
    from stream.commands.models import show_models

    asyncio.run(show_models(load(), as_json=as_json))


@models.command("show")
def models_show(
    model: Model,
    version: Annotated[int | None, typer.Argument(min=0, help="The newest if unset.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what one snapshot says of every contestant."""
    from stream.commands.quality import show_version

    asyncio.run(show_version(load(), model, version, as_json=as_json))


@models.command("report")
def models_report(model: Model, as_json: AsJson = False, page: Page = None) -> None:
    """Show how good each contestant is, and what was served."""
    from stream.commands.quality import show_report

    asyncio.run(show_report(load(), model, as_json=as_json, page=page))


@models.command("pin")
def models_pin(model: Model, version: Version) -> None:
    """Have workers score with one kept version, and nothing else, until it is unpinned."""
    from stream.commands.versions import pin_model

    asyncio.run(pin_model(load(), model, version))


@models.command("unpin")
def models_unpin(model: Model) -> None:
    """Have workers go on to the newest version."""
    from stream.commands.versions import unpin_model

    asyncio.run(unpin_model(load(), model))


@models.command("rollback")
def models_rollback(
    model: Model,
    version: Annotated[int | None, typer.Argument(min=0, help="The kept one before the one in use if unset.")] = None,
) -> None:
    """Pin an older version."""
    from stream.commands.versions import roll_back

    asyncio.run(roll_back(load(), model, version))


@models.command("promote")
def models_promote(
    model: Model, contestant: Annotated[str, typer.Argument(help="Who is to speak, as `show` names them.")]
) -> None:
    """Make a contestant the champion, whatever the evidence says."""
    from stream.commands.versions import promote_contestant

    asyncio.run(promote_contestant(load(), model, contestant))


@models.command("demote")
def models_demote(model: Model) -> None:
    """Let the evidence decide again who is champion."""
    from stream.commands.versions import demote_contestant

    asyncio.run(demote_contestant(load(), model))


@models.command("export")
def models_export(
    model: Model,
    file: Annotated[Path, typer.Argument(help="Where the sealed bytes go.")],
    version: Annotated[int | None, typer.Option(min=0, help="The one in use if unset.")] = None,
) -> None:
    """Write a kept version to a file, signature and all."""
    from stream.commands.transfer import export_version

    asyncio.run(export_version(load(), model, file, version))


@models.command("import")
def models_import(file: Annotated[Path, typer.Argument(help="As `export` or `at` wrote it.")]) -> None:
    """Keep a version that was exported, and pin it; refused unless it is signed with this installation's key."""
    from stream.commands.transfer import import_file

    asyncio.run(import_file(load(), file))


@models.command("at")
def models_at(
    version: Version,
    model: Annotated[str | None, typer.Option(help="Only this one; all if unset.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the sealed bytes of --model there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Learn a past version again from the examples, to the bit."""
    from stream.commands.past import show_past

    if out is not None and model is None:
        raise typer.BadParameter("--out is for one model; say which with --model")
    asyncio.run(show_past(load(), version, model, out, as_json=as_json))


@app.command()
def schemas(
    write: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write the documents there.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Fail if the documents that ship are stale.")] = False,
) -> None:
    """List the contracts' JSON Schemas and AsyncAPI document, write them, or check that they are fresh."""
    from stream.commands.schemas import check_folder, show_documents, write_into

    if check and write is not None:
        raise typer.BadParameter("give --write or --check, not both")
    if check:
        check_folder()
    elif write is not None:
        write_into(write)
    else:
        show_documents()


@app.command()
def settings() -> None:
    """Print every option, its variable and its default, as Markdown."""
    from stream.commands.settings import show_settings

    show_settings()


@app.command()
def features(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page in docs instead of a table.")] = False,
) -> None:
    """Print every feature that models learn from: unit, meaning and kind."""
    from stream.commands.features import show_features

    show_features(markdown=markdown)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()

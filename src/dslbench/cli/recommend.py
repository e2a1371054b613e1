"""`dslbench recommend`: lists by original ids from a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dslbench.errors import UsageError, did_you_mean
from dslbench.output import check_apart, say, streamed

_FORMATS = ("csv", "json")
_LEFT_OUT = ("all", "before-test", "nothing")


def recommend(
    model: Annotated[
        Path,
        typer.Option("--model", help="Model file: `dslbench train ... --export FILE --with-seen`."),
    ],
    user: Annotated[
        list[str] | None, typer.Option("--user", help="Original id of a user; may be repeated.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every user of the model.")] = False,
    item: Annotated[
        list[str] | None,
        typer.Option(
            "--item",
            help="Original id of an item that a new user has; repeated for more. For models that can "
            "score users they were not trained on (MultVAE, references).",
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Items in each list.")] = 10,
    leave_out: Annotated[
        str,
        typer.Option(
            "--leave-out",
            help="What users have seen and is not recommended again: all; before-test, as in "
            "evaluation; or nothing.",
        ),
    ] = "all",
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="The data it was trained on, for a model written without --with-seen."
        ),
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help="csv (user,rank,item), or json: an object a line.")
    ] = "csv",
    output: Annotated[
        Path | None, typer.Option("--output", help="File to write, in place of stdout.")
    ] = None,
) -> None:
    """Print recommendations by original ids, from a model file and nothing else."""
    named = [name for name, given in (("--user", user), ("--all", all_), ("--item", item)) if given]
    if len(named) != 1:
        raise UsageError(
            f"{' and '.join(named)} exclude each other"
            if named
            else "who is to be recommended for?",
            "name one of --user ID, --all, --item ID",
        )
    if item and leave_out != "all":
        raise UsageError("--leave-out is of users of the model, not of --item", "leave it out")
    if format_ not in _FORMATS:
        raise UsageError(f"unknown format '{format_}'", did_you_mean(format_, _FORMATS))
    if leave_out not in _LEFT_OUT:
        raise UsageError(
            f"--leave-out is {' or '.join(_LEFT_OUT)}", did_you_mean(leave_out, _LEFT_OUT)
        )
    check_apart(output, model, "model")
    from dslbench.cli.datasets import check_not_data
    from dslbench.cli.progress import progress
    from dslbench.serving import Recommender

    check_not_data(dataset, output)
    known = Recommender.load(model, dataset)
    if known.has_seen:
        say(f"what users have seen is that of {known.source}")
    elif item is None and leave_out != "nothing":
        say(
            "warning: this model does not know what users have seen, so nothing is left out; "
            "write it with --with-seen"
        )
    write = _csv if format_ == "csv" else _json
    if item is not None:
        lists = iter([("", known.recommend_for(item, k))])
        total = 1
    elif user is not None:
        lists = iter(zip(user, known.recommend(user, k, leave_out), strict=True))  # type: ignore[arg-type]
        total = len(user)
    else:
        lists, total = known.recommend_all(k, leave_out), len(known.users)  # type: ignore[arg-type]
    with streamed(output) as stream, progress("recommending", total, "users") as advance:
        if format_ == "csv":
            stream("user,rank,item\n")
        for done, (name, items) in enumerate(lists, start=1):
            stream(write(name, items))
            if done % 1000 == 0:
                advance(done)


def _csv(user: str, items: list[str]) -> str:
    return "".join(
        f"{_field(user)},{place},{_field(item)}\n" for place, item in enumerate(items, 1)
    )


def _field(text: str) -> str:
    """RFC 4180. Ids are given as they are, as a program reads them."""
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n\r') else text


def _json(user: str, items: list[str]) -> str:
    import json

    return json.dumps({"user": user or None, "items": items}, ensure_ascii=False) + "\n"

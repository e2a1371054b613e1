"""The command line: arguments in, calls out. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from dslbench import __version__
from dslbench.cli import (
    compare,
    doctor,
    download,
    list_,
    recommend,
    report,
    reproduce,
    results,
    score,
    shrink,
    train,
    tune,
)  # fmt: skip
from dslbench.errors import DslbenchError
from dslbench.output import leave_stdout, occupy_closed, result, say

app = typer.Typer(
    name="dslbench",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Compare ways of making recommenders small and cheap, and what each one really costs.",
    epilog="Start with `dslbench compare --backbone lightgcn --sparsity 0.5`: with no data "
    "downloaded it runs on an embedded data set.",
)


def _version(wanted: bool) -> None:
    if wanted:
        result(f"dslbench {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Options common to all commands."""


COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("download", download.download, "download gowalla --from ~/LightGCN-PyTorch/data/gowalla"),
    ("train", train.train, "train --backbone lightgcn --method dsl --sparsity 0.8"),
    ("compare", compare.compare, "compare --backbone lightgcn --sparsity 0.5 --seeds 3"),
    ("reproduce", reproduce.reproduce, "reproduce --scale quick --import ~/data"),
    ("report", report.report, "report --table 3 --output table3.tex"),
    ("shrink", shrink.shrink, "shrink --dataset orders.csv --backbone lightgcn --within 1%"),
    ("tune", tune.tune, "tune --backbone lightgcn --method dense --method dsl --trials 20"),
    ("recommend", recommend.recommend, "recommend --model m.safetensors --user 17 --k 10"),
    ("score", score.score, "score --lists lists.csv --dataset gowalla"),
    ("list", list_.list_, "list methods"),
    ("doctor", doctor.doctor, "doctor"),
)
for name, command, example in COMMANDS:
    app.command(name, epilog=f"Example: `dslbench {example}`")(command)
app.add_typer(results.app, name="results")


@functools.cache
def _parser() -> Callable[..., Any]:
    """All commands and their options; Typer would build them anew for every call, 25 ms each."""
    return get_command(app)


def main() -> None:
    """Entry point: errors become one line and their exit code."""
    occupy_closed()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing is lost
    try:
        code = _parser()(
            args=sys.argv[1:] or ["--help"], standalone_mode=False, prog_name="dslbench"
        )
    except DslbenchError as error:
        _fail(error.message, error.hint, error.exit_code)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        leave_stdout()  # the reader has gone
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", "DSLBENCH_HOME names where to store", 1)
    except Exception as error:
        # The argument parser's own errors; where their classes live depends on Typer's version.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "dslbench"
        _fail(str(explain()), f"{command} --help", 2)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, hint: str | None, code: int) -> NoReturn:
    say(f"error: {message}")
    if hint:
        say(f"  try: {hint}")
    sys.exit(code)

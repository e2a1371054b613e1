"""The command line without a process of its own."""

from __future__ import annotations

import contextlib
import io
import sys

from dslbench.cli import main as cli


def run(*args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    argv, sys.argv = sys.argv, ["dslbench", *args]
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True), io.StringIO()
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.argv = argv
    out.seek(0)
    return code, out.read(), err.getvalue()

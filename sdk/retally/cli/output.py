"""What commands print and how they end.

Every command takes `--json`, anywhere on the line: then exactly one JSON object goes to standard output, an error
included. Otherwise people get text and tables, and errors go to standard error with a hint.

Exit codes: 0 done · 1 failed · 2 wrong usage · 3 not found · 4 money is missing or a limit was reached ·
5 the chain can't be reached · 6 a job was re-executed: mismatch · 7 a job was re-executed: inconclusive · 130 Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup
from typer.exceptions import TyperException

from retally.cli.plain_text import Cleaned, PlainTable, clean
from retally.errors import BadRequest, ChainUnreachable, NotFound, PaymentRequired, RetallyError, TransactionFailed
from retally.protocol.case import VerdictKind

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
MONEY = 4
CHAIN = 5
MISMATCH = 6
INCONCLUSIVE = 7
INTERRUPTED = 130

DEBUG_VARIABLE = "RETALLY_DEBUG"
_JSON = "retally.json"
_MONEY_WORDS = ("Insufficient", "Allowance", "CapExceeded", "NothingTo")


class JsonGroup(TyperGroup):
    """A command group that knows `--json` at any place and ends every error the documented way."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Takes `--json` out, wherever it stands before a `--`, unless the command has an option of that name."""
        end = args.index("--") if "--" in args else len(args)
        if _wants_json(args):
            ctx.meta[_JSON] = True
            if not self._declares_json(ctx, args[:end]):
                args = [arg for arg in args[:end] if arg != "--json"] + args[end:]
        return super().parse_args(ctx, args)

    def _declares_json(self, ctx: Any, args: list[str]) -> bool:
        command: Any = self
        for arg in args:
            inner = command.get_command(ctx, arg) if isinstance(command, TyperGroup) else None
            command = inner or command
        return any("--json" in parameter.opts for parameter in command.params) and command is not self

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs a command line; with `--json` wrong usage is told as one object too."""
        given = sys.argv[1:] if args is None else list(args)
        if not standalone_mode or not _wants_json(given):
            return super().main(given, prog_name, complete_var, standalone_mode, windows_expand_args, **extra)
        try:
            sys.exit(super().main(given, prog_name, complete_var, False, windows_expand_args, **extra))
        except typer.Abort:
            sys.exit(INTERRUPTED)
        except TyperException as error:
            told = getattr(error, "format_message", None)
            print_error(BadRequest(str(told() if told else error), code="usage"), as_json=True)
            sys.exit(getattr(error, "exit_code", USAGE))

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; errors become messages and exit codes."""
        try:
            return super().invoke(ctx)
        except RetallyError as error:
            report_error(ctx, error)
            raise typer.Exit(exit_code(error)) from error
        except (KeyboardInterrupt, typer.Abort) as error:
            raise typer.Exit(INTERRUPTED) from error
        except (TyperException, typer.Exit, EOFError, BrokenPipeError):
            raise
        except Exception as error:
            # The last resort: scripts read one object, whatever went wrong.
            if os.environ.get(DEBUG_VARIABLE):
                traceback.print_exc()
            hint = f"{DEBUG_VARIABLE}=1 shows where"
            report_error(ctx, RetallyError(f"{type(error).__name__}: {error}", code="internal_error", hint=hint))
            raise typer.Exit(FAILED) from error


def _wants_json(args: Sequence[str]) -> bool:
    return "--json" in (args[: args.index("--")] if "--" in args else args)


def is_json(ctx: typer.Context) -> bool:
    """Whether `--json` was given; nested groups share it."""
    return bool(ctx.meta.get(_JSON))


def emit(ctx: typer.Context, data: Mapping[str, Any], view: RenderableType | None = None) -> None:
    """Prints the result: the data as one JSON object, or a view of it for people."""
    if is_json(ctx):
        typer.echo(json.dumps(data, default=str))
        return
    console = Console(soft_wrap=True)
    if view is not None:
        console.print(clean(view) if isinstance(view, str) else Cleaned(view), markup=False, emoji=False)
        return
    for name, value in data.items():
        console.print(clean(f"{name}: {value}"), highlight=False, markup=False, emoji=False)


def note(ctx: typer.Context, message: str) -> None:
    """Tells people what goes on, on standard error; silent with `--json`."""
    if not is_json(ctx):
        Console(stderr=True, soft_wrap=True).print(clean(message), highlight=False, markup=False, emoji=False)


def report_error(ctx: typer.Context, error: RetallyError) -> None:
    """Prints a command's error."""
    print_error(error, as_json=is_json(ctx))


def print_error(error: RetallyError, *, as_json: bool) -> None:
    """Prints an error: message, decoded contract error and hint."""
    if as_json:
        content: dict[str, Any] = {"message": error.message, "code": error.code, "hint": error.hint}
        if isinstance(error, TransactionFailed):
            content["contractError"] = error.error_name
        typer.echo(json.dumps({"error": content}, default=str))
        return
    console = Console(stderr=True, soft_wrap=True)
    console.print(Text.assemble(("error", "red"), " ", clean(error.message)))
    if error.hint:
        console.print(Text(clean(f"hint  {error.hint}"), style="dim"))


def exit_code(error: RetallyError) -> int:
    """The documented exit code of an error."""
    if isinstance(error, TransactionFailed):
        return MONEY if any(word in error.error_name for word in _MONEY_WORDS) else FAILED
    if isinstance(error, ChainUnreachable):
        return CHAIN
    if isinstance(error, PaymentRequired) or error.status == 402:
        return MONEY
    if isinstance(error, NotFound) or error.status == 404:
        return NOT_FOUND
    return USAGE if isinstance(error, BadRequest) else FAILED


def verdict_code(verdict: int) -> int:
    """The documented exit code of a verdict."""
    return {VerdictKind.MATCH: OK, VerdictKind.MISMATCH: MISMATCH}.get(VerdictKind(verdict), INCONCLUSIVE)


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table; amounts belong in columns whose name ends with a space-free unit."""
    heading = None if title is None else Text(clean(title), style="table.title")
    made = PlainTable(title=heading, box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made

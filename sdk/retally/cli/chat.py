"""`retally chat`: talk to a model, see what it cost and whether all checks passed."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Self

import typer
from rich.console import Console
from rich.text import Text

from retally.cli.amounts import parse_amount, show_amount
from retally.cli.jobs import renderer_of
from retally.cli.output import FAILED, emit, is_json, note
from retally.cli.plain_text import clean
from retally.cli.session import Session
from retally.errors import BadRequest, RetallyError, Unavailable, error_of_envelope
from retally.job_result import JobResult

Message = dict[str, str]


def chat(
    ctx: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="What to say; without it a conversation starts.")] = None,
    model: Annotated[str | None, typer.Option(help="The model; see `retally models`.")] = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 256,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    own_key: Annotated[bool, typer.Option("--own-key", help="Pay with your own key instead of an API key.")] = False,
    limit: Annotated[str | None, typer.Option(help="Refuse to spend more than this in this run, in rUSD.")] = None,
    daily_limit: Annotated[str | None, typer.Option(help="Refuse to spend more than this a day, in rUSD.")] = None,
) -> None:
    """Ask a model; the answer streams, then its cost is shown. Exit code 1 when a check of a single answer fails."""
    session = Session(ctx)
    if prompt is None and (is_json(ctx) or not sys.stdin.isatty()):
        prompt = sys.stdin.read().strip()
        if not prompt:
            raise BadRequest("nothing was asked", param="prompt", hint='retally chat "Hello"')
    options = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    talk = Conversation(ctx, session, own_key, limit, daily_limit, model or session.model, options)
    if system is not None:
        talk.messages.append({"role": "system", "content": system})
    with talk:
        if prompt is not None:
            text, result = talk.say(prompt)
            emit(ctx, {"text": text, **_outcome(result), **result.to_json()}, _summary(result))
            if not result.checks.passed:
                raise typer.Exit(FAILED)
            return
        note(ctx, f"{talk.model}; Ctrl-D ends the conversation")
        while (line := _next_line()) is not None:
            if line:
                _, result = talk.say(line)
                Console(stderr=True).print(Text(clean(_summary(result)), style="dim"))


class Conversation:
    """Messages so far, and the client that carries them."""

    def __init__(
        self,
        ctx: typer.Context,
        session: Session,
        own_key: bool,
        limit: str | None,
        daily_limit: str | None,
        model: str,
        options: dict[str, Any],
    ) -> None:
        from retally.client import Client
        from retally.wallet import Wallet

        self.model = model
        self.messages: list[Message] = []
        self._quiet = is_json(ctx)
        self._options = {name: value for name, value in options.items() if value is not None}
        self._wallet = Wallet(session.key(), session.domain, session.home) if own_key else None
        self._client = Client(
            session.context.api_key,
            session.router_url,
            wallet=self._wallet,
            deployment=session.context.deployment,
            spending_limit=None if limit is None else parse_amount(limit),
            daily_limit=None if daily_limit is None else parse_amount(daily_limit),
            renderer=renderer_of(session),
            history=True,
            home=session.home,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        if self._wallet is not None:
            self._wallet.close()

    def say(self, text: str) -> tuple[str, JobResult]:
        """One turn: streams the answer to the terminal."""
        import openai

        from retally.client import result_of

        self.messages.append({"role": "user", "content": text})
        parts: list[str] = []
        try:
            request: Any = {"model": self.model, "messages": self.messages, "stream": True, **self._options}
            with self._client.chat.completions.create(**request) as stream:
                for chunk in stream:
                    for choice in chunk.choices:
                        self._show(parts, choice.delta.content or "")
        except openai.APIStatusError as error:
            raise error_of_envelope(error.status_code, {"error": error.body}) from error
        except openai.APIConnectionError as error:
            hint = "is the router's URL right, and does it run?"
            raise Unavailable(f"the router does not answer: {error}", code="router_unreachable", hint=hint) from error
        except openai.APIError as error:
            raise RetallyError(f"the answer broke off: {error.message}", code=error.code or "stream_failed") from error
        if not self._quiet:
            typer.echo()
        answer = "".join(parts)
        self.messages.append({"role": "assistant", "content": answer})
        return answer, result_of(stream)

    def _show(self, parts: list[str], text: str) -> None:
        parts.append(text)
        if not self._quiet:
            sys.stdout.write(clean(text))
            sys.stdout.flush()


def _next_line() -> str | None:
    try:
        return input("> ").strip()
    except EOFError:
        return None


def _outcome(result: JobResult) -> dict[str, Any]:
    """What a script has to look at beside the answer."""
    errors = {"paymentError": result.payment_error, "voucherError": result.voucher_error}
    told = {name: None if error is None else error.message for name, error in errors.items()}
    return {"passed": result.checks.passed, **told}


def _summary(result: JobResult) -> str:
    checks = result.checks
    word = "FAILED" if checks.failures else "all checks passed" if checks.word == "passed" else checks.word
    failed = "".join(f"; {check.name}: {check.detail}" for check in checks.failures)
    for word_of_it, error in (("not paid", result.payment_error), ("no voucher got through", result.voucher_error)):
        failed += "" if error is None else f"; {word_of_it}: {error.message}"
    tokens = f"{result.prompt_tokens} + {result.output_tokens} tokens"
    return f"{show_amount(result.cost)} · {tokens} · {word}{failed} · job {str(result.job_id)[:18]}"

"""What a command needs: the context it runs in, the key, the chain, the router."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import typer

from retally.bounded_read import json_or_none, read_bounded, within
from retally.errors import BadRequest, RetallyError, error_of_envelope
from retally.home import Context
from retally.http_steps import Unreachable
from retally.keystore import Keystore, key_from_hex
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import Address, checksum_address

T = TypeVar("T")
DEVNET_CHAIN = 31337
LONGEST_SECONDS = 30.0
MOST_BYTES = 8 << 20
_FLAGS = "retally.flags"


def remember_flags(ctx: typer.Context, flags: Mapping[str, str | None]) -> None:
    """Keeps the root's flags for the command that follows."""
    ctx.meta[_FLAGS] = dict(flags)


class Session:
    """One command's view of the world; everything in it is opened when first needed."""

    def __init__(self, ctx: typer.Context) -> None:
        flags: dict[str, str | None] = dict(ctx.meta.get(_FLAGS, {}))
        home = flags.pop("home", None)
        self.context = Context.load(home=None if home is None else Path(home), flags=flags)

    @property
    def home(self) -> Path:
        """The folder of keys, lanes and history."""
        return self.context.home

    @property
    def keystore(self) -> Keystore:
        """The keys in that folder."""
        return Keystore(self.home / "keystore")

    @property
    def router_url(self) -> str:
        """The router, without a trailing slash or `/v1`."""
        if self.context.router_url is None:
            hint = "pass --router-url, set RETALLY_ROUTER_URL, or run: retally devnet up"
            raise BadRequest("no router is known", hint=hint)
        return self.context.router_url.rstrip("/").removesuffix("/v1")

    @property
    def model(self) -> str:
        """The model to ask where none is named."""
        if self.context.model is None:
            raise BadRequest("no model was named", hint="pass --model; see: retally models")
        return self.context.model

    def deployment(self) -> Any:
        """The deployment file."""
        from retally.chain.deployment import Deployment

        if self.context.deployment is None:
            hint = "pass --deployment deployments/<chain id>.json, or run: retally devnet up"
            raise BadRequest("no deployment is known", hint=hint)
        return Deployment.load(self.context.deployment)

    @property
    def domain(self) -> Domain:
        """The domain of all signatures."""
        domain: Domain = self.deployment().domain
        return domain

    def address(self) -> Address:
        """Whose account is meant; no password needed."""
        if self.context.address is not None:
            return checksum_address(self.context.address)
        if self.context.key is not None:
            return self.raw_key(self.context.key).address
        return self.keystore.find().address

    def key(self) -> SigningKey:
        """The signing key: a raw one on chain 31337 only, else from the keystore with its password."""
        raw = self.context.key
        if raw is not None:
            if self.deployment().chain_id != DEVNET_CHAIN:
                raise BadRequest("raw keys are for chain 31337 only", hint="import it: retally wallet import")
            key = self.raw_key(raw)
            wanted = self.context.address
            if wanted is None or wanted.lower() == key.address.lower():
                return key
        stored = self.keystore.find(self.context.address)
        return self.keystore.unlock(password(f"Password of {stored.address}"), stored.address)

    def raw_key(self, text: str) -> SigningKey:
        """The key that the environment or a devnet gives."""
        try:
            return key_from_hex(text)
        except BadRequest as error:
            error.hint = f"RETALLY_KEY is {error.hint}"
            raise

    @asynccontextmanager
    async def chain(self) -> AsyncIterator[Any]:
        """The chain with its contracts."""
        from retally.chain.connection import Chain

        if self.context.rpc_url is None:
            raise BadRequest("no chain is known", hint="pass --rpc-url, set RETALLY_RPC_URL, or run: retally devnet up")
        chain = Chain(self.context.rpc_url, self.deployment())
        try:
            await chain.start()
            yield chain
        finally:
            await chain.close()

    def router(self, method: str, path: str, *, json: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Asks the router; its error envelope becomes our error."""
        return self.ask(self.router_url, method, path, json=json, headers=headers)

    def ask(
        self, base_url: str, method: str, path: str, *, json: Any = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Asks a service; its error envelope becomes our error."""
        url = _url_of(base_url) + path
        asked = _asked(method, url, json, {"accept-encoding": "identity", **(headers or {})})
        try:
            # On a thread of its own: commands ask in the middle of their asynchronous parts too.
            with ThreadPoolExecutor(1) as thread:
                status, content = thread.submit(asyncio.run, asked).result()
        except httpx2.HTTPError as error:
            raise Unreachable(f"{base_url} does not answer: {error}") from error
        body = json_or_none(content)
        if status >= 400:
            raise error_of_envelope(status, body)
        if body is None:
            raise RetallyError(f"the answer is no JSON (status {status})")
        return body


async def _asked(method: str, url: str, json: Any, headers: Mapping[str, str]) -> tuple[int, bytes]:
    async with (
        within(LONGEST_SECONDS, url),
        httpx2.AsyncClient(timeout=LONGEST_SECONDS, trust_env=False) as client,
        client.stream(method, url, json=json, headers=dict(headers)) as answer,
    ):
        return answer.status_code, await read_bounded(answer, MOST_BYTES)


def _url_of(base_url: str) -> str:
    try:
        # Each refuses what the other lets pass: a port out of range, half an IPv6 address.
        _ = urlsplit(base_url).port, httpx2.URL(base_url)
    except (ValueError, httpx2.InvalidURL) as error:
        raise BadRequest(f"{base_url!r} is no URL: {error}", hint="write it like https://router.example") from error
    return base_url.rstrip("/")


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Reads a stranger's JSON; another shape than agreed becomes our error."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RetallyError(f"{what} can't be read: {type(error).__name__}", code="unreadable_answer") from error


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Runs a command's asynchronous part."""

    async def main() -> T:
        return await work()

    return asyncio.run(main())


def password(prompt: str, *, confirm: bool = False) -> str:
    """The password: $RETALLY_PASSWORD, $RETALLY_PASSWORD_FILE, else asked for."""
    given = os.environ.get("RETALLY_PASSWORD")
    if given is not None:
        return given
    file = os.environ.get("RETALLY_PASSWORD_FILE")
    if file is not None:
        try:
            return Path(file).read_text().rstrip("\n")
        except OSError as error:
            raise BadRequest(f"RETALLY_PASSWORD_FILE can't be read: {error}") from error
    if not sys.stdin.isatty():
        raise BadRequest("a password is needed", hint="set RETALLY_PASSWORD or RETALLY_PASSWORD_FILE")
    answer: str = typer.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
    return answer

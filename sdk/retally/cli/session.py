"""What a command needs: the context it runs in, the key, the chain, the router."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import typer

from retally.errors import BadRequest, RetallyError, error_of_envelope
from retally.home import Context
from retally.http_steps import Unreachable
from retally.keystore import Keystore
from retally.protocol.eip712 import Domain, SigningKey
from retally.protocol.encoding import Address, checksum_address

T = TypeVar("T")
DEVNET_CHAIN = 31337
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
            return SigningKey.from_hex(self.context.key).address
        return self.keystore.find().address

    def key(self) -> SigningKey:
        """The signing key: a raw one on chain 31337 only, else from the keystore with its password."""
        raw = self.context.key
        if raw is not None:
            if self.deployment().chain_id != DEVNET_CHAIN:
                raise BadRequest("raw keys are for chain 31337 only", hint="import it: retally wallet import")
            key = SigningKey.from_hex(raw)
            wanted = self.context.address
            if wanted is None or wanted.lower() == key.address.lower():
                return key
        stored = self.keystore.find(self.context.address)
        return self.keystore.unlock(password(f"Password of {stored.address}"), stored.address)

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
        url = base_url.rstrip("/") + path
        try:
            answer = httpx2.request(method, url, json=json, headers=dict(headers or {}), timeout=30.0, trust_env=False)
        except httpx2.HTTPError as error:
            raise Unreachable(f"{base_url} does not answer: {error}") from error
        body = _json_of(answer)
        if answer.status_code >= 400:
            raise error_of_envelope(answer.status_code, body)
        return body


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


def _json_of(answer: httpx2.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        if answer.status_code >= 400:
            return None
        raise RetallyError(f"the answer is no JSON (status {answer.status_code})") from error

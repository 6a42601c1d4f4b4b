"""Why no node may serve a job: what the client is told of the filter that left none, and what it can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from retally.errors import BadRequest, ContextExceeded, NodeUnavailable, NotFound, PriceAboveMax, RetallyError
from retally_router.directory import Listed

if TYPE_CHECKING:
    from retally_router.selection import Need


def refusal(name: str, left: Sequence[Listed], need: Need) -> RetallyError:
    """The error of a filter, by its name."""
    if name == "price" and need.wishes.max_prices is not None:
        cheapest = min(left, key=lambda node: node.offer.price_out)
        return PriceAboveMax("priceOut", cheapest.offer.price_out, need.wishes.max_prices.price_out)
    if name == "endpoint":
        return _other_endpoint(need)
    hints = {
        "context": "shorten the prompt",
        "wish": "loosen `provider`",
        "region": "raise provider.max_rtt_ms; GET /retally/v1/nodes shows the nodes' round trips",
        "audited": "wait for more operators, or send provider: {allow_unaudited: true}",
        "exposure": "retry later: what the nodes may collect this week is used up",
    }
    if name == "context":
        return ContextExceeded(
            need.prompt_tokens // 32, need.output_tokens, max(node.offer.max_context for node in left)
        )
    return NodeUnavailable(f"no node that serves {need.model} passes the filter `{name}`", hint=hints.get(name, ""))


def _other_endpoint(need: Need) -> RetallyError:
    if need.dimensions:
        return BadRequest(f"no node makes vectors of {need.dimensions} components of {need.model}", param="dimensions")
    hint = "use /v1/embeddings: GET /v1/models says which models serve what"
    message = f"{need.model} serves embeddings, and no completions"
    return NotFound(message, param="model", code="completions_not_served", hint=hint)

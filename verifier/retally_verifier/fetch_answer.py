"""Ask a node for what stands behind a drawn point, and check what it shows."""

from __future__ import annotations

from retally.chain.clock import Clock
from retally.errors import NodeUnavailable, NotFound
from retally.node_client import NodeClient
from retally.protocol.answer import AnswerContext, check_answer
from retally.protocol.case import AnswerRequest
from retally.protocol.eip712 import SigningKey
from retally.protocol.wire import AnswerBundle, SignedAnswerRequest
from retally_verifier.store import Store

DEADLINE_SECONDS = 300


class AnswerFetcher:
    """Asks with the verifier's signature: prompts are shown to bonded verifiers alone."""

    def __init__(self, store: Store, client: NodeClient, key: SigningKey, clock: Clock) -> None:
        self._store = store
        self._client = client
        self._key = key
        self._clock = clock

    async def fetch(self, context: AnswerContext) -> AnswerBundle:
        """A checked answer; raises where there is none or what is shown is none."""
        node = self._store.node(context.commit.node)
        if node is None:
            raise NotFound(f"node {context.commit.node} was never registered")
        if not node.endpoint:
            raise NodeUnavailable(f"node {node.node} has no endpoint")
        request = AnswerRequest(
            commit_id=context.commit.id,
            channel=context.point.channel,
            point=context.point.point,
            verifier=self._key.address,
            deadline=self._clock.now() + DEADLINE_SECONDS,
        )
        signed = SignedAnswerRequest(request, self._key.sign(request.digest(context.domain)))
        bundle = await self._client.answer(node, signed)
        check_answer(context, bundle)
        return bundle

"""What this node replays with as a juror: its own engine, under the profile that it is registered with."""

from __future__ import annotations

from retally.inference.chat_format import ChatFormat
from retally.inference.engine import Engine
from retally.inference.profile_files import ProfileFile
from retally_node.node import Served
from retally_node.settings import NodeSettings
from retally_node.weigh_case import OwnReplayer


def own_replayer(settings: NodeSettings, served: Served, engine: Engine, chat: ChatFormat) -> OwnReplayer:
    """Put a juror's replayer together; raises BadRequest where the profile's file is another profile's."""
    exact = frozenset[bytes]()
    if settings.profile_file is not None:
        profile = ProfileFile.load(settings.profile_file)
        profile.check_declared(served.profile_id)
        exact = frozenset({served.profile_id} if profile.is_exact else ())
    return OwnReplayer(
        engine, chat.render, chat.eos_ids, served.model_id, served.profile_id, chat.grammars, exact
    )  # fmt: skip

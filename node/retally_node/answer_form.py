"""The form that an answer is asked for in, checked before anything is written down or paid."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from retally.errors import UnsupportedParameter
from retally.inference.chat_format import ChatFormat
from retally.protocol.params import JobParams
from retally.protocol.structure import grammar_of

#: Much more than any schema within the bounds takes; the first one on a busy machine also loads the library.
COMPILE_SECONDS = 30


class AnswerForms:
    """What this node's model can be asked for."""

    def __init__(self, chat_format: ChatFormat) -> None:
        self._format = chat_format

    def parts(self, prompt: Mapping[str, Any], template_date: str) -> Sequence[Sequence[int]]:
        """The prompt's token ids: those of each text to embed, else all of them as one."""
        if "inputs" in prompt:
            return self._format.render_inputs(prompt)
        return [self.render(prompt, template_date)]

    def fewest_tokens(self, prompt: Mapping[str, Any]) -> int:
        """A prompt has no fewer, whatever it says: to be looked at before they are made."""
        return self._format.fewest_tokens(prompt)

    def render(self, prompt: Mapping[str, Any], template_date: str) -> Sequence[int]:
        """The token ids of a prompt to complete."""
        return self._format.render(prompt, template_date)

    async def check(self, params: JobParams, prompt: Mapping[str, Any]) -> None:
        """Raises BadRequest for a form that could not be enforced, or tools that the model does not know."""
        if not params.has_form:
            grammar_of(params, prompt)
            return
        if params.tool_choice.type != "none" and not self._format.has_tools:
            raise UnsupportedParameter("tools", "are not known to this model's chat template")
        grammar = grammar_of(params, prompt)
        if grammar:
            # Compiling is work of the processor's, and the engine does it again between two steps.
            work = asyncio.to_thread(self._format.grammars.check, grammar, self._format.eos_ids)
            try:
                await asyncio.wait_for(work, COMPILE_SECONDS)
            except TimeoutError as error:
                hint = "simplify the schema, or send the request again if this node has just started"
                raise UnsupportedParameter(
                    "response_format", f"takes longer than {COMPILE_SECONDS} s to compile; {hint}"
                ) from error

"""What a command is told about a job: its record, its prompt, its model."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retally.cli.session import Session
from retally.errors import BadRequest, NotFound
from retally.job_evidence import Evidence
from retally.job_history import JobHistory
from retally.stored_job import evidence_of

if TYPE_CHECKING:
    from retally.inference.chat_format import ChatFormat
    from retally.verify_job import ModelKit

Receipt = Annotated[
    str,
    typer.Argument(
        help="A job's id, or its beginning, from this machine's history; or the file that `retally receipt JOB --json` "
        "printed; `-` for standard input."
    ),
]
PromptFile = Annotated[
    Path | None,
    typer.Option("--prompt", help='The prompt as JSON: {"messages": […]}, {"prompt": "…"} or {"promptIds": […]}.'),
]
AskText = Annotated[str | None, typer.Option("--ask", help="The prompt, where it was one message of a user.")]
ModelDir = Annotated[
    Path | None, typer.Option("--model-dir", help="The folder of the job's model. Also $RETALLY_MODEL_DIR.")
]


def find_job(session: Session, job_id: str) -> dict[str, Any]:
    """A job of this machine's history, else its receipts from the router."""
    try:
        return JobHistory(session.home / "jobs.sqlite").get(job_id)
    except NotFound as error:
        if len(job_id) == 66 and session.context.router_url is not None:
            found: dict[str, Any] = session.router("GET", f"/v1/receipts/{job_id}")
            return found
        error.hint = "see `retally jobs`, or name a file that `retally receipt JOB --json` printed"
        raise


def held_content(session: Session, receipt: str) -> dict[str, Any]:
    """The record that is meant: standard input, a file, or a job's id."""
    if receipt == "-":
        return read_json(sys.stdin.read(), receipt)
    if Path(receipt).exists() or not receipt.startswith("0x"):
        return read_json(read_text(Path(receipt)), receipt)
    return find_job(session, receipt)


def held_prompt(prompt: Path | None, ask: str | None) -> dict[str, Any] | None:
    """The prompt that is meant, if one was given."""
    if prompt is not None and ask is not None:
        raise BadRequest("--prompt and --ask exclude each other", param="prompt")
    if ask is not None:
        return {"messages": [{"role": "user", "content": ask}]}
    return None if prompt is None else read_json(read_text(prompt), str(prompt))


def held_evidence(session: Session, content: dict[str, Any], prompt: dict[str, Any] | None, kit: ModelKit) -> Evidence:
    """The record for its checks to be made again, with the model's own template."""
    return evidence_of(content, domain=session.domain, prompt=prompt, renderer=kit.render)


@dataclass(frozen=True, slots=True)
class HeldJob:
    """A job's record, to be checked again, with its model at hand."""

    evidence: Evidence
    kit: ModelKit
    chat_format: ChatFormat
    model: str


def held_job(session: Session, receipt: str, prompt: Path | None, ask: str | None, model_dir: Path | None) -> HeldJob:
    """The job that a command is told of; raises where a part of it is not at hand."""
    content = held_content(session, receipt)
    kit, chat_format, model = model_kit(model_folder(session, model_dir))
    return HeldJob(held_evidence(session, content, held_prompt(prompt, ask), kit), kit, chat_format, model)


def model_folder(session: Session, given: Path | None) -> Path:
    """The folder of the model's files."""
    folder = given or session.context.model_dir
    if folder is None:
        hint = "pass --model-dir with the model's tokenizer, template and manifest.json"
        raise BadRequest("the model's files are not at hand", param="model_dir", hint=hint)
    return folder


def model_kit(folder: Path) -> tuple[ModelKit, ChatFormat, str]:
    """Template and tokenizer of a folder whose files are those that its manifest names, and the model's name."""
    # Only here: the client itself never imports the inference package.
    from retally.inference.chat_format import ChatFormat
    from retally.inference.model_files import ModelFiles
    from retally.verify_job import ModelKit

    files = ModelFiles.load(folder)
    # Another tokenizer or template would make every honest prompt a mismatch.
    files.check_unchanged()
    chat_format = ChatFormat.load(folder)
    kit = ModelKit(files.model_id, chat_format.render, chat_format.eos_ids, chat_format.grammars)
    return kit, chat_format, files.name


def read_text(path: Path) -> str:
    """A text file's content."""
    try:
        return path.read_text()
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} can't be read: {error}") from error


def read_json(text: str, name: str) -> dict[str, Any]:
    """One JSON object."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise BadRequest(f"{name} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadRequest(f"{name} must hold one JSON object")
    return content

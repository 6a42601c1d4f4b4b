"""Admission of jobs for embeddings: what a node that serves them takes, and no other does."""

from __future__ import annotations

from retally.errors import BadRequest, ContextExceeded, UnsupportedParameter
from retally.protocol.embeddings import check_params
from retally_node.candidate import AdmissionRules, Candidate


def check_endpoint(candidate: Candidate, rules: AdmissionRules) -> None:
    """The node serves what is asked for, and the prompt is of that kind."""
    params = candidate.submission.params
    if params.is_embeddings != (rules.vectors is not None):
        serves = "completions" if rules.vectors is None else "embeddings"
        raise BadRequest(f"this node serves {serves} only", param="endpoint", code="endpoint_not_served")
    if params.is_embeddings != ("inputs" in candidate.submission.prompt):
        raise BadRequest("inputs go with embeddings, and nothing else does", param="prompt")


def check_embeddings(candidate: Candidate, rules: AdmissionRules) -> None:
    """Vectors come as one choice in one frame, from the start, and of a size that the model makes (R-73)."""
    submission = candidate.submission
    if rules.vectors is None:
        return
    check_params(submission.params, submission.prompt, rules.vectors)
    if not submission.stream:
        raise UnsupportedParameter("stream", "must be true: vectors come in one frame")
    if candidate.request.n != 1:
        raise UnsupportedParameter("n", "must be 1: there is one vector for each input")
    if candidate.longest_input > candidate.offer.max_context:
        raise ContextExceeded(candidate.longest_input, 0, candidate.offer.max_context)


def check_unaudited(candidate: Candidate, rules: AdmissionRules) -> None:
    """Nobody can judge vectors yet, so no request may promise that they are (R-75)."""
    if rules.vectors is not None and candidate.request.audit_consent:
        raise BadRequest("a request for embeddings forbids audit", param="auditConsent", code="audit_not_possible")

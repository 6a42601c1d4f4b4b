"""Refusals of the protocol: each names its rule and carries its operands."""

from __future__ import annotations

from retally.errors.tree import BadRequest, Conflict, NotFound, PaymentRequired, Unauthorized, Unavailable


class InvalidSignature(Unauthorized):
    """A signature is malformed or by somebody else."""

    code = "invalid_signature"

    def __init__(
        self, message: str = "invalid signature", *, expected: str | None = None, actual: str | None = None
    ) -> None:
        detail = "" if expected is None else f": expected {expected}, signed by {actual}"
        super().__init__(message + detail)
        self.expected = expected
        self.actual = actual


class SignerExpired(Unauthorized):
    """The session signer expires, thaws or is revoked before its vouchers can be collected."""

    code = "signer_expired"
    hint = "authorise a new signer"

    def __init__(self, signer: str, expiry: int) -> None:
        super().__init__(f"signer {signer} is not good for long enough (expiry {expiry})")
        self.signer = signer
        self.expiry = expiry


class InvalidReceipt(BadRequest):
    """A receipt does not say what was asked and delivered; `rule` names the broken rule."""

    code = "invalid_receipt"

    def __init__(self, rule: str, expected: object = None, actual: object = None) -> None:
        detail = "" if expected is None and actual is None else f": expected {expected}, got {actual}"
        super().__init__(f"receipt breaks {rule}{detail}")
        self.rule = rule
        self.expected = expected
        self.actual = actual


class VoucherMismatch(BadRequest):
    """A voucher is for another channel than the job's."""

    code = "voucher_mismatch"

    def __init__(self, field: str, expected: object, actual: object) -> None:
        super().__init__(f"voucher {field} is {actual}, expected {expected}", param="voucher")
        self.field = field
        self.expected = expected
        self.actual = actual


class OfferExpired(BadRequest):
    """The offer named is no longer, or not yet known to be, valid."""

    code = "offer_expired"
    hint = "fetch a new offer and assign again"

    def __init__(self, valid_until: int, now: int) -> None:
        super().__init__(f"the offer was valid until {valid_until}, now is {now}")
        self.valid_until = valid_until
        self.now = now


class DeadlinePassed(BadRequest):
    """The signed deadline lies in the past."""

    code = "deadline_passed"
    hint = "sign a new request"

    def __init__(self, deadline: int, now: int) -> None:
        super().__init__(f"the deadline was {deadline}, now is {now}")
        self.deadline = deadline
        self.now = now


class ContextExceeded(BadRequest):
    """Prompt and output don't fit into the model's context."""

    code = "context_length_exceeded"
    hint = "shorten the prompt or lower max_tokens"

    def __init__(self, prompt_tokens: int, max_output: int, max_context: int) -> None:
        super().__init__(f"{prompt_tokens} prompt + {max_output} output tokens exceed the context of {max_context}")
        self.prompt_tokens = prompt_tokens
        self.max_output = max_output
        self.max_context = max_context


class UnsupportedParameter(BadRequest):
    """A parameter that the protocol does not define, or a value outside its range."""

    code = "unsupported_parameter"

    def __init__(self, param: str, reason: str = "is not supported") -> None:
        super().__init__(f"{param} {reason}", param=param)
        self.reason = reason


class PriceAboveMax(BadRequest):
    """No price of the offer may exceed the request's maximum."""

    code = "price_above_max"
    hint = "raise the maximum price or choose another node"

    def __init__(self, field: str, price: int, maximum: int) -> None:
        super().__init__(f"{field} is {price}, the request allows {maximum}", param=field)
        self.field = field
        self.price = price
        self.maximum = maximum


class VoucherTooLow(PaymentRequired):
    """The signer has promised less than is due."""

    code = "voucher_too_low"
    hint = "sign a voucher of at least the amount due"

    def __init__(self, due: int, cumulative: int) -> None:
        super().__init__(
            f"{due} is due on this channel, the best voucher is {cumulative}",
            param="voucher",
            details={"required": str(due)},
        )
        self.due = due
        self.cumulative = cumulative


class CapExceeded(PaymentRequired):
    """The signer's on-chain cap does not cover this."""

    code = "cap_exceeded"
    hint = "authorise the signer with a higher cap"

    def __init__(self, needed: int, left: int) -> None:
        super().__init__(
            f"{needed} needed, {left} left under the signer's cap", details={"required": str(needed), "left": str(left)}
        )
        self.needed = needed
        self.left = left


class InsufficientFunds(PaymentRequired):
    """The payer's deposit, or the credit granted to it, does not cover this."""

    code = "insufficient_funds"
    hint = "deposit more, or reserve funds for the node"

    def __init__(self, needed: int, available: int) -> None:
        super().__init__(
            f"{needed} needed, {available} available", details={"required": str(needed), "available": str(available)}
        )
        self.needed = needed
        self.available = available


class SpendingLimitExceeded(PaymentRequired):
    """The client's own limit stops this request before it is sent."""

    code = "spending_limit_exceeded"
    hint = "raise the client's spending limit"

    def __init__(self, limit: int, spent: int, asked: int) -> None:
        super().__init__(f"{asked} asked with {spent} spent, the limit is {limit}")
        self.limit = limit
        self.spent = spent
        self.asked = asked


class UnknownModel(NotFound):
    """No node serves this model."""

    code = "model_not_found"
    hint = "list the models with GET /v1/models"

    def __init__(self, model: str) -> None:
        super().__init__(f"the model {model} does not exist or nobody serves it", param="model")
        self.model = model


class DuplicateJob(Conflict):
    """The same (job, choice, start) was admitted before."""

    code = "duplicate_job"
    hint = "sign a request with a new nonce"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} was admitted before")
        self.job_id = job_id


class ChainUnreachable(Unavailable):
    """The chain's RPC endpoint does not answer."""

    code = "chain_unreachable"


class EngineUnavailable(Unavailable):
    """The inference engine does not answer."""

    code = "engine_unavailable"


class NodeUnavailable(Unavailable):
    """No node can take or finish this job."""

    code = "node_unavailable"

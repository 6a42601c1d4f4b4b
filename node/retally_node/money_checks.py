"""Admission by money: what the books and the chain say about a payer, its signer and its channel."""

from __future__ import annotations

from collections.abc import Callable

from retally.errors import CapExceeded, InsufficientFunds, SignerExpired, VoucherTooLow
from retally_node.candidate import AdmissionRules, Candidate, MoneyView

SIGNER_MARGIN_SECONDS = 3 * 86_400

MoneyCheck = Callable[[Candidate, AdmissionRules, MoneyView], None]


def check_signer_lasts(candidate: Candidate, rules: AdmissionRules, money: MoneyView) -> None:
    """A session signer stays good for long enough to collect."""
    expiry = money.standing.expiry
    if expiry is not None and expiry < candidate.now + SIGNER_MARGIN_SECONDS:
        raise SignerExpired(candidate.request.signer, expiry)


def check_signer_cap(candidate: Candidate, rules: AdmissionRules, money: MoneyView) -> None:
    """The signer's cap covers what it owes here and this job."""
    left = money.standing.cap_left
    if left is None:
        return
    payer, signer = candidate.request.payer, candidate.request.signer
    owed = money.book.committed(lambda channel: (channel.payer, channel.signer) == (payer, signer))
    if owed + candidate.total_max_fee > left:
        raise CapExceeded(owed + candidate.total_max_fee, left)


def check_payer_funds(candidate: Candidate, rules: AdmissionRules, money: MoneyView) -> None:
    """The payer's deposit covers what it owes here and this job."""
    needed = money.book.committed_with(candidate.request.payer) + candidate.total_max_fee
    if needed > money.standing.funds:
        raise InsufficientFunds(needed, money.standing.funds)


def check_credit_of_payer(candidate: Candidate, rules: AdmissionRules, money: MoneyView) -> None:
    """Beyond what is reserved, one payer gets so much credit and no more."""
    needed = money.book.committed_with(candidate.request.payer) + candidate.total_max_fee
    allowed = rules.credit_per_payer + money.standing.reserved
    if needed > allowed:
        raise InsufficientFunds(needed, allowed)


def check_credit_total(candidate: Candidate, rules: AdmissionRules, money: MoneyView) -> None:
    """All payers together get so much credit and no more; what nobody will ever pay counts for its payer alone."""
    needed = money.book.expected() + candidate.total_max_fee
    allowed = rules.credit_total + money.standing.reserved
    if needed > allowed:
        raise InsufficientFunds(needed, allowed)


def check_channel_paid(candidate: Candidate, rules: AdmissionRules, money: MoneyView) -> None:
    """Nothing closed on this channel is still without a voucher."""
    best = max(money.channel.best, candidate.submission.voucher.cumulative)
    if best < money.channel.last_cum:
        raise VoucherTooLow(money.channel.due + candidate.total_input_fee, best)


def check_prepaid(candidate: Candidate, rules: AdmissionRules, money: MoneyView) -> None:
    """R-22: all that is due and this job's input are vouched for before prefill."""
    best = max(money.channel.best, candidate.submission.voucher.cumulative)
    required = money.channel.due + candidate.total_input_fee
    if best < required:
        raise VoucherTooLow(required, best)


#: Whether this payer and signer are good for anything: before their promises are kept.
STANDING_CHECKS: tuple[MoneyCheck, ...] = (
    check_signer_lasts,
    check_signer_cap,
    check_payer_funds,
)

#: Whether they are good for this job.
CREDIT_CHECKS: tuple[MoneyCheck, ...] = (
    check_credit_of_payer,
    check_credit_total,
    check_channel_paid,
    check_prepaid,
)

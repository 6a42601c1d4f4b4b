"""Everything a node can be told, checked at start: a TOML file, overridden by RETALLY_NODE_* variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from retally.service_settings import Port, Seconds, ServiceSettings

Amount = Annotated[int, Field(ge=0, lt=2**96)]
Price = Annotated[int, Field(ge=0, lt=2**64)]


class NodeSettings(ServiceSettings):
    """A node's settings: amounts in the asset's smallest unit, prices per million tokens."""

    model_config = SettingsConfigDict(env_prefix="RETALLY_NODE_")

    port: Port = 8100
    public_url: str | None = None
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    admin_token: SecretStr | None = None
    collector_key_file: Path | None = Field(
        default=None, description="the key that collects, answers and votes, if not the node's own"
    )
    collector_key_password_file: Path | None = None

    engine_url: str = "http://127.0.0.1:8000"
    engine_command: tuple[str, ...] | None = Field(
        default=None, description="starts the engine; attach to one if unset"
    )
    start_engine: bool = Field(default=False, description="starts vLLM with the profile's flags")
    engine_start_seconds: Seconds = 300
    serves: Literal["completions", "embeddings"] = Field(
        default="completions", description="what the engine is for: vLLM pools or answers, never both"
    )
    profile_file: Path | None = Field(
        default=None, description="the JSON of the registered profile; an exact one is started and judged as such"
    )
    model_dir: Path
    data_dir: Path

    price_in: Price
    price_cached: Price
    price_out: Price
    max_context: int = Field(ge=16)
    max_running: int = Field(default=64, ge=1, description="segments decoded at once")
    max_waiting: int = Field(default=256, ge=0, description="segments admitted beyond those")
    offer_seconds: int = Field(default=3600, ge=60)
    chunk_tokens: int = Field(default=16, ge=1)

    credit_per_payer: Amount = 100_000_000
    credit_total: Amount = 1_000_000_000
    least_reservation: Amount = Field(
        default=1_000_000, description="what a reservation must add to those before it to be worth its transaction"
    )
    voucher_wait_seconds: Seconds = 20
    require_audit_consent: bool = False

    settle_interval_seconds: int = Field(default=86_400, ge=1)
    settle_at_expiry_seconds: int = Field(default=2 * 86_400, ge=0)
    standing_seconds: float = Field(
        default=2.0, ge=0, description="how long a payer's standing read on chain is trusted"
    )
    jury: bool = True
    appeal_budget: Amount = Field(
        default=750_000_000, description="the most that appeals of one case against the owner may take; 0 appeals none"
    )
    appeal_budget_epoch: Amount = Field(
        default=3_000_000_000, description="the same of all cases that were opened in one epoch of four weeks"
    )
    calibration_dir: Path | None = None

    @property
    def embeds(self) -> bool:
        """Whether this node serves embeddings, and nothing else."""
        return self.serves == "embeddings"

    @model_validator(mode="after")
    def _embeddings_are_billed_by_input(self) -> Self:
        if self.embeds and self.price_out:
            raise ValueError("price_out must be 0 where embeddings are served: they bill their input alone (R-74)")
        if self.embeds and self.profile_file is None:
            raise ValueError("embeddings need profile_file: a profile of their own, which says so (R-76)")
        return self

    @model_validator(mode="after")
    def _cached_is_cheaper(self) -> Self:
        if self.price_cached > self.price_in:
            raise ValueError("price_cached must not exceed price_in: cached tokens may only lower a fee")
        return self

    @model_validator(mode="after")
    def _an_epoch_has_a_case(self) -> Self:
        if self.appeal_budget_epoch < self.appeal_budget:
            raise ValueError("appeal_budget_epoch must not be below appeal_budget")
        return self

    @model_validator(mode="after")
    def _collector_has_a_password(self) -> Self:
        if (self.collector_key_file is None) != (self.collector_key_password_file is None):
            raise ValueError("collector_key_file needs collector_key_password_file")
        return self

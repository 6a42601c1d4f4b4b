"""Parameters, inputs and components of embeddings (R-73, R-74)."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from retally.errors import BadRequest, InvalidReceipt, UnsupportedParameter
from retally.protocol.embeddings import (
    MAX_COMPONENTS,
    MAX_INPUTS,
    VectorSizes,
    bytes_of_ids,
    floats_of,
    ids_of_bytes,
    inputs_of_body,
    params_of_embeddings,
    vectors_of_ids,
)
from retally.protocol.job import JobParams, canonical_json


class TestParams:
    def test_r73_are_three_keys_that_read_back(self) -> None:
        params = params_of_embeddings(8, 2)
        assert canonical_json(params.to_json()) == b'{"dimensions":8,"endpoint":"embeddings","maxTokens":16}'
        assert JobParams.from_json(params.to_json()) == params

    @pytest.mark.parametrize(
        "change", [{"dimensions": 0}, {"maxTokens": 7}, {"temperature": 0}, {"dimensions": "8"}, {"dimensions": -1}]
    )
    def test_anything_else_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(BadRequest):
            JobParams.from_json({**params_of_embeddings(8, 2).to_json(), **change})

    def test_completions_have_no_dimensions(self) -> None:
        with pytest.raises(UnsupportedParameter):
            JobParams(max_tokens=8, template_date="2026-11-21", dimensions=8)

    def test_more_components_than_leave_in_a_frame_name_how_many_inputs_do(self) -> None:
        with pytest.raises(BadRequest) as refused:
            params_of_embeddings(1024, MAX_COMPONENTS // 1024 + 1)
        assert refused.value.hint == f"send at most {MAX_COMPONENTS // 1024} inputs in a request"


class TestInputs:
    @pytest.mark.parametrize(
        ("given", "inputs"),
        [("a", ["a"]), (["a", "b"], ["a", "b"]), ([5, 6], [[5, 6]]), ([[5], [6, 7]], [[5], [6, 7]])],
    )
    def test_every_form_of_openais_input(self, given: object, inputs: list[Any]) -> None:
        assert inputs_of_body({"input": given}) == {"inputs": inputs}

    @pytest.mark.parametrize(
        "given", [None, "", [], [""], [[]], [1.5], [True], [-1], {"a": 1}, [["a"]], ["a"] * (MAX_INPUTS + 1)]
    )
    def test_what_is_none_is_refused(self, given: object) -> None:
        with pytest.raises(BadRequest) as refused:
            inputs_of_body({"input": given})
        assert refused.value.param == "input"


class TestComponents:
    def test_r74_ids_are_the_bits_of_float32(self) -> None:
        numbers = [0.0, -0.0, 1.0, -1.5, 3.4e38, 1e-45]
        ids = ids_of_bytes(struct.pack("<6f", *numbers))
        assert ids[:4] == [0, 0x80000000, 0x3F800000, 0xBFC00000]
        assert [list(floats_of(row)) for row in vectors_of_ids(ids, 3)] == [
            list(struct.unpack("<3f", struct.pack("<3f", *numbers[start : start + 3]))) for start in (0, 3)
        ]
        assert bytes_of_ids(ids) == struct.pack("<6f", *numbers)

    @pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7FC00000])
    def test_r74_infinities_and_no_numbers_are_no_components(self, bits: int) -> None:
        with pytest.raises(InvalidReceipt, match="finite"):
            vectors_of_ids([bits], 1)

    def test_r74_vectors_are_whole(self) -> None:
        with pytest.raises(InvalidReceipt, match="whole"):
            vectors_of_ids([0, 0, 0], 2)


class TestSizes:
    def test_read_what_they_wrote(self) -> None:
        sizes = VectorSizes(1024, (256, 512))
        assert VectorSizes.from_wire(sizes.to_wire()) == sizes
        assert [sizes.has(size) for size in (1024, 512, 100)] == [True, True, False]

    @pytest.mark.parametrize("wire", [{}, {"dimensions": 0, "shorter": []}, {"dimensions": 8}, [8]])
    def test_what_is_none_is_refused(self, wire: object) -> None:
        with pytest.raises(BadRequest):
            VectorSizes.from_wire(wire)

"""Merkle proofs: every leaf proves itself, nothing else does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from retally.protocol.encoding import Bytes32, keccak
from retally.protocol.merkle import IdsTree, OutputTree, ids_root, output_root, prove, root, verify

leaves_lists = st.lists(st.binary(min_size=32, max_size=32).map(Bytes32), min_size=1, max_size=70, unique=True)


@given(leaves_lists, st.data())
def test_every_leaf_proves_itself(leaves: list[Bytes32], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    assert verify(root(leaves), leaves[index], index, len(leaves), len(leaves), prove(leaves, index))


@given(leaves_lists, st.data())
def test_a_proof_fits_one_place_only(leaves: list[Bytes32], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    other = data.draw(st.integers(0, len(leaves) + 2).filter(lambda i: i != index))
    proof = prove(leaves, index)
    assert not verify(root(leaves), leaves[index], other, len(leaves), len(leaves), proof)


@given(leaves_lists, st.data())
def test_forged_proofs_fail(leaves: list[Bytes32], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = prove(leaves, index)
    top, count = root(leaves), len(leaves)
    assert not verify(top, keccak(b"forged"), index, count, count, proof)
    assert not verify(top, leaves[index], index, count, count, [*proof, bytes(32)])
    assert not verify(top, leaves[index], index, count, count + 1, proof)
    if proof:
        assert not verify(top, leaves[index], index, count, count, proof[:-1])
        place = data.draw(st.integers(0, len(proof) - 1))
        bent = [*proof[:place], keccak(proof[place]), *proof[place + 1 :]]
        assert not verify(top, leaves[index], index, count, count, bent)


@given(leaves_lists)
def test_inner_nodes_are_no_leaves(leaves: list[Bytes32]) -> None:
    inner = keccak(b"\x01" + leaves[0] + leaves[-1])
    assert root([inner]) != root([leaves[0], leaves[-1]])


@given(st.lists(st.integers(0, (1 << 32) - 1), max_size=200), st.data())
def test_growing_trees_have_the_same_root(ids: list[int], data: st.DataObject) -> None:
    qs = data.draw(st.lists(st.integers(0, 65535), min_size=len(ids), max_size=len(ids)))
    first, step = data.draw(st.integers(0, 10_000)), data.draw(st.integers(1, 70))
    plain, output = IdsTree(), OutputTree(first)
    for i in range(0, len(ids), step):
        plain.append(ids[i : i + step])
        output.append(ids[i : i + step], qs[i : i + step])
        assert plain.root() == ids_root(ids[: i + step])
    assert plain.root() == ids_root(ids)
    assert output.root() == output_root(first, ids, qs)

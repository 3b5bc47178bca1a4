"How results differ, said in words: the first place, how many, by how much, and what kind of thing was found."

import numpy as np
import pytest
import torch

from kpnb.differences import difference, in_words, is_number

A = torch.arange(6.0).view(2, 3)
B = A.clone()
B[1, 2], B[1, 0] = 7, 3.5
NAN = torch.tensor([float("nan"), 1.0])


@pytest.mark.parametrize(
    "found, expected, words",
    [
        (B, A, "first difference at [1, 0]: expected 3, found 3.5 (2 of 6 values differ, by up to 2)"),
        (A + 1e-6, A, None),
        (A.T, A, "expected the shape (2, 3), found (3, 2)"),
        (A.double(), A, "expected the type torch.float32, found torch.float64"),
        ([0, 1], torch.arange(2), "expected int64 (2,), found list(0, 1), which is not a tensor"),
        (A.to("meta"), A, "expected a result on cpu, found one on meta"),
        (A.numpy(), A, "expected float32 (2, 3), found array float32 (2, 3), which is not a tensor"),
        (
            torch.tensor([True, False]),
            torch.tensor([True, True]),
            "first difference at [1]: expected True, found False (1 of 2 values differ)",
        ),
    ],
)
def test_tensors(found, expected, words):
    assert difference(found, expected) == words


def test_a_plain_number_and_a_tensor_without_dimensions_are_the_same():
    assert difference(torch.tensor(3.0), 3) is None
    assert difference(3, torch.tensor(3.0)) is None


def test_tuples_lists_dictionaries_and_strings():
    assert difference((A, {"x": B}), (A, {"x": A})) == "result 1: ['x']: " + difference(B, A)
    assert difference((A,), (A, A)) == "expected 2 results, found 1"
    assert difference({"y": 1}, {"x": 1}) == "expected a dictionary with ['x'], found {'y': 1}"
    assert difference("left", "right") == "expected 'right', found 'left'"


def test_nan_is_equal_to_nan_and_to_nothing_else():
    assert difference(NAN, NAN) is None
    words = "first difference at [0]: expected 1, found nan (1 of 2 values differ)"
    assert difference(NAN, torch.ones(2)) == words


def test_values_are_described_in_a_few_words():
    assert in_words(A) == "float32 (2, 3)"
    assert in_words([A, 1]) == "list(float32 (2, 3), 1)"
    assert in_words(list(range(9))) == "list of 9"
    assert in_words("x" * 99) == "'" + "x" * 56 + "..."


def test_what_counts_as_one_number():
    for x in (1, 2.5, True, np.float32(1), torch.tensor(1), np.array(1.0)):
        assert is_number(x)
    for x in ("1", None, torch.ones(1), [1]):
        assert not is_number(x)

"Exercises whose answer is one number."

import pytest
import torch

from kpnb.number_checks import check_number

WEIGHTS = check_number(
    "weights of a 3×3 convolution from 8 to 16 channels, with bias",
    8 * 16 * 9 + 16,
    wrong={"without the bias": 8 * 16 * 9, "with a bias for each input channel": 8 * 16 * 9 + 8},
)


def test_the_right_number_passes_and_a_typical_wrong_one_is_called_by_name(capsys):
    result = WEIGHTS(torch.tensor(1168))
    assert result and capsys.readouterr().out == result.message + "\n"
    assert WEIGHTS(1152).named == "without the bias"
    assert WEIGHTS(1167).message.endswith("It is too small.")
    assert WEIGHTS(...).status == WEIGHTS(None).status == "not yet"
    assert "expected one number, found 'many'" in WEIGHTS("many").message
    assert WEIGHTS(True).status == "error"
    WEIGHTS.test()


@pytest.mark.parametrize("answer, passed", [(1.09, True), (1.11, False), (0.91, True), (float("nan"), False)])
def test_the_tolerance(answer, passed):
    assert check_number("x", 1.0, 0.1).judge(answer).passed == passed


def test_wrong_numbers_that_cannot_be_told_apart_are_found_out():
    with pytest.raises(AssertionError, match="lies within the tolerance 0.5"):
        check_number("x", 1, 0.5, {"when rounding": 1.2}).test()
    with pytest.raises(AssertionError, match="'b' is recognised as 'a'"):
        check_number("x", 1, 0.5, {"a": 5, "b": 5.2}).test()

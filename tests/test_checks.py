"Exercises: stubs, wrong answers, mistakes with and without a name, randomness, and the test of a check."

import pytest
import torch

from kpnb.checks import CheckResult, Exercise, whole
from kpnb.core import make_generator


def mirrored(points, width):
    return torch.stack([width - points[..., 0], points[..., 1]], -1)


Y_MIRRORED = "when y is mirrored instead of x"
FLIP = Exercise(
    "flip",
    mirrored,
    cases=lambda g: (torch.rand(whole(g, 1, 6), whole(g, 1, 9), 2, generator=g) * 50, whole(g, 50, 99)),
    wrong={
        Y_MIRRORED: lambda p, w: torch.stack([p[..., 0], w - p[..., 1]], -1),
        "with x and y swapped": lambda p, w: torch.stack([p[..., 1], w - p[..., 0]], -1),
    },
)


def noisy(x):
    return x + torch.randn_like(x)


def line(g):
    return torch.rand(whole(g, 2, 4), generator=g)


NOISE = Exercise("noise", noisy, line, {"without noise": lambda x: x})
LAST = Exercise("last", lambda x: x[-1], line, {"when you count from one": lambda x: x[len(x)]})
SCALE = Exercise(
    "Scale",
    lambda s: lambda x: x * s,
    lambda g: (torch.rand(3, generator=g), whole(g, 2, 9)),
    {"when the factor is added": lambda s: lambda x: x + s},
    call=lambda answer, x, s: answer(s)(x),
)


def unfinished(points, width):
    raise NotImplementedError


def documented(points, width):
    "points (N, 2) in pixels"
    ...


def forgetful(points, width):
    points = width - points


def test_whole_draws_all_numbers_of_a_range():
    g = make_generator(0)
    assert sorted({whole(g, 2, 5) for _ in range(200)}) == [2, 3, 4, 5]


@pytest.mark.parametrize("stub", [None, ..., unfinished, documented, lambda p, w: None, lambda p, w: ...])
def test_an_untouched_stub_is_not_yet(stub, capsys):
    result = FLIP(stub)
    assert result.status == "not yet" and not result and capsys.readouterr().out == result.message + "\n"


@pytest.mark.parametrize(
    "answer, status, words",
    [
        (forgetful, "error", "`return` missing"),
        (3, "error", "expected a function, found 3"),
        (lambda p, w: p.tolist(), "wrong", "found list"),
        (
            lambda p, w: mirrored(p, w).double(),
            "wrong",
            "expected the type torch.float32, found torch.float64",
        ),
        (lambda p, w: mirrored(p, w)[None], "wrong", "expected the shape"),
        (lambda p, w: mirrored(p, w) if len(p) > 1 else None, "wrong", "found None"),
        (lambda p: p, "error", "your function raised TypeError"),
    ],
)
def test_what_is_wrong_is_said(answer, status, words):
    result = FLIP.judge(answer)
    assert result.status == status and words in result.message


def test_the_message_names_the_case_and_the_first_difference():
    message = FLIP.judge(FLIP.wrong[Y_MIRRORED]).message
    assert "first difference at [0, 0, 0]: expected" in message and "points = float32 (" in message


def test_an_error_is_shown_with_its_line():
    def flip(points, width):
        x, y = points
        return width - x, y

    result = FLIP.judge(flip)
    assert result.status == "error" and "in line 2 of flip: x, y = points" in result.message
    assert "your function raised ValueError" in result.message


def test_a_mistake_that_fits_some_cases_only_is_not_named():
    swapped = FLIP.wrong[Y_MIRRORED]
    assert FLIP.judge(lambda p, w: swapped(p, w) if len(p) == 3 else p).named is None
    assert 3 in {len(p) for p, _ in FLIP._draw(0)}


def test_everybody_sees_the_same_random_state_and_it_comes_back():
    state = torch.get_rng_state()
    answers = (noisy, lambda x: x + torch.randn(len(x)), lambda x: x * 1)
    assert [NOISE.judge(a).named or NOISE.judge(a).status for a in answers] == [
        "passed",
        "passed",
        "without noise",
    ]
    assert torch.get_rng_state().equal(state)
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        NOISE.judge(lambda x: drawn.append(torch.rand(1).item()))
    assert len(set(drawn)) == 1


def test_a_typical_mistake_may_raise_and_an_answer_may_be_a_class():
    class Scale(torch.nn.Module):
        def __init__(self, s):
            super().__init__()
            self.s = s

        def forward(self, x):
            return x + self.s

    assert LAST.judge(lambda a: a[len(a)]).named == "when you count from one"
    assert SCALE.judge(Scale).named == "when the factor is added"


def test_an_input_that_is_changed_is_noticed():
    def flip(points, width):
        points[..., 0] = width - points[..., 0]
        return points

    result = FLIP.judge(flip)
    assert not result and "changes its input points in place" in result.message


@pytest.mark.parametrize("check", [FLIP, NOISE, LAST, SCALE], ids=lambda c: c.name)
def test_these_checks_pass_their_own_test(check):
    check.test()


def test_a_check_that_is_wrong_is_found_out():
    blind = Exercise("flip", mirrored, lambda g: (torch.full((2, 3, 2), 7.0), 14), FLIP.wrong)
    twins = Exercise(
        "double",
        lambda x: 2 * x,
        lambda g: torch.rand(3, generator=g),
        {"when you add": lambda x: x + 2, "when you add two": lambda x: 2 + x},
    )
    lax = Exercise("f", lambda x: 2 * x, lambda g: torch.rand(3, generator=g))
    lax._passed = lambda *a: CheckResult(True, "")
    for check, words in (
        (blind, f"the mistake '{Y_MIRRORED}' passes .seed 0."),
        (twins, "'when you add two' is recognised as 'when you add'"),
        (lax, "changing an input in place is not noticed"),
    ):
        with pytest.raises(AssertionError, match=words):
            check.test()
    with pytest.raises(AssertionError, match="flip: the solution does not pass .seed 0."):
        FLIP.test(lambda p, w: p)
    with pytest.raises(RuntimeError, match="the reference solution itself fails"):
        Exercise("f", lambda x: x[9], lambda g: torch.rand(3, generator=g)).test()

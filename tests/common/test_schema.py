"""What JSON of another script, or of somebody's editor, is let through."""

import math

import pytest

from common.schema import (
    is_count,
    is_flag,
    is_number,
    is_object,
    is_share,
    is_text,
    list_of,
    misfit,
    optional,
    shown,
    values_of,
)

VALUES = (
    None,
    True,
    False,
    0,
    1,
    2,
    -1,
    2**63 - 1,
    2**63,
    0.0,
    0.5,
    1.0,
    1.5,
    math.inf,
    math.nan,
    "",
    "a",
    [],
    [1],
    {},
)


@pytest.mark.parametrize(
    ("form", "fitting"),
    [
        (is_text, ["", "a"]),
        (is_flag, [True, False]),
        (is_object, [{}]),
        (is_number, [0, 1, 2, -1, 2**63 - 1, 2**63, 0.0, 0.5, 1.0, 1.5]),
        (is_count, [0, 1, 2, 2**63 - 1]),
        (is_share, [0, 1, 0.0, 0.5, 1.0]),
        (optional(is_text), [None, "", "a"]),
        (list_of(is_count), [[], [1]]),
        (values_of(is_count), [{}]),
    ],
)
def test_each_form_takes_its_values_and_no_others(form, fitting):
    accepted = [value for value in VALUES if form(value)]
    assert [(type(value), value) for value in accepted] == [(type(value), value) for value in fitting]


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"name": "a", "parts": {"n": 1}}, None),
        ({"name": "a", "parts": {"n": 1}, "note": "more", "other": 3}, None),
        ({"name": 1, "parts": {"n": 1}}, "its name: it is 1"),
        ({"parts": {"n": 1}}, "it has no name"),
        ({"name": "a", "parts": {"n": -1}}, "its parts: its n: it is -1"),
        ({"name": "a", "parts": []}, "its parts: it is [], expected an object"),
        ({"name": "a", "parts": {"n": 1}, "note": 3}, "its note: it is 3"),
        ("text", "it is 'text', expected an object"),
    ],
)
def test_what_does_not_fit_is_said_with_where_it_stands(value, wrong):
    assert misfit(value, {"name": is_text, "parts": {"n": is_count}, "note?": is_text}) == wrong


def test_lists_and_values_are_held_to_their_form_one_by_one():
    assert not list_of(is_count)([1, 2, -3]) and list_of(is_count)([1, 2, 3])
    assert not values_of(is_count)({"a": 1, "b": -1}) and values_of(is_count)({"a": 1, "b": 2})
    assert not optional({"a": is_count})({"a": "x"}) and optional({"a": is_count})({"a": 1})


def test_a_long_value_is_shown_in_sixty_characters():
    assert shown("x" * 58) == f"'{'x' * 58}'" and len(shown("x" * 500)) == 60 and shown("x" * 500).endswith("...")

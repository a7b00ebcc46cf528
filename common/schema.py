"""The form that JSON must have that another script wrote, or somebody edited since."""

import math
from collections.abc import Callable
from typing import TypeGuard

Form = dict | Callable[[object], bool]


def is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str)


def is_object(value: object) -> TypeGuard[dict]:
    return isinstance(value, dict)


def is_flag(value: object) -> bool:
    return isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def is_count(value: object) -> TypeGuard[int]:
    """Whether it is a whole number of 0 or more that an int64 holds."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_share(value: object) -> bool:
    return is_number(value) and 0 <= value <= 1


def optional(form: Form) -> Callable[[object], bool]:
    return lambda value: value is None or not misfit(value, form)


def list_of(form: Form) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and not any(misfit(item, form) for item in value)


def values_of(form: Form) -> Callable[[object], bool]:
    """An object whose values have a form, whatever their keys."""
    return lambda value: isinstance(value, dict) and not any(misfit(item, form) for item in value.values())


def misfit(value: object, form: Form) -> str | None:
    """What in ``value`` has not the form asked for, in words; None if it fits.

    Args:
        form: a function that says whether a value is right, or the forms of an object's values by key, of which those
            that end in a question mark may be missing. Keys that are not named are not looked at.
    """
    if not isinstance(form, dict):
        return None if form(value) else f"it is {shown(value)}"
    if not isinstance(value, dict):
        return f"it is {shown(value)}, expected an object"
    for key, of_value in form.items():
        name = key.removesuffix("?")
        if name not in value:
            if name != key:
                continue
            return f"it has no {name}"
        problem = misfit(value[name], of_value)
        if problem:
            return f"its {name}: {problem}"
    return None


def shown(value: object) -> str:
    """A value in a few characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

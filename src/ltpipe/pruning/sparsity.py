"""Sparsity: an exact decimal fraction, and schedules of it over rounds of pruning."""

import re
from dataclasses import dataclass, field
from decimal import Context, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ltpipe.runtime.errors import UserError

if TYPE_CHECKING:
    from pydantic_core.core_schema import CoreSchema

_DECIMALS = 40
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,9})?")
_EXACT = Context(prec=2 * _DECIMALS)
_ALLOWED = "is not allowed; use a fraction from 0 to 1"


@dataclass(frozen=True, order=True)
class Sparsity:
    """A fraction to prune, exactly as written. Sparsities with equal numbers are equal.

    Attributes:
        fraction: the exact number, 0 to 1.
        text: the number as written, for example `0.50`.
    """

    fraction: Fraction
    text: str = field(compare=False)

    @classmethod
    def of(cls, value: "str | float | Sparsity") -> "Sparsity":
        """Read a sparsity from a decimal number or its text.

        Raises:
            UserError: `value` is not a number from 0 to 1, or has too many decimals.
        """
        if isinstance(value, Sparsity):
            return value
        text = str(value)
        if not _NUMBER.fullmatch(text):  # Decimal also accepts other digits and underscores
            raise UserError(f"sparsity {value!r} {_ALLOWED}")
        decimal = Decimal(text)
        if not 0 <= decimal <= 1:
            percent = f"; did you mean {_plain(decimal / 100)}?" if 2 <= decimal <= 100 else ""
            raise UserError(f"sparsity {text} {_ALLOWED}{percent}")
        exponent = decimal.as_tuple().exponent
        if isinstance(exponent, int) and exponent < -_DECIMALS:  # file names and integers get that many digits
            raise UserError(f"sparsity {text} {_ALLOWED} with at most {_DECIMALS} decimals")
        return cls(Fraction(decimal), text)

    @property
    def canonical(self) -> str:
        """The shortest plain decimal, as in file names: 0.5 and 0.50 are one sparsity and one file."""
        return _plain(Decimal(self.text))

    def count(self, total: int) -> int:
        """Return how many of `total` are pruned: `round(fraction * total)` in exact arithmetic, halves to even."""
        return round(self.fraction * total)

    def __float__(self) -> float:
        """Return the nearest float."""
        return float(self.fraction)

    def __str__(self) -> str:
        """Return the text as written."""
        return self.text

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> "CoreSchema":
        """Tell pydantic that records hold a sparsity as its text."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(
            cls._of_record,
            core_schema.str_schema(strict=True),
            serialization=core_schema.to_string_ser_schema(when_used="always"),
        )

    @classmethod
    def _of_record(cls, text: str) -> "Sparsity":
        try:
            return cls.of(text)
        except UserError as error:
            raise ValueError(str(error)) from None


def exponential_schedule(target: float, rounds: int) -> list[float]:
    """Return the sparsities after each of `rounds` rounds that all prune the same fraction of the remaining weights.

    s_i = 1 - (1 - target)^(i / rounds), the schedule of iterative magnitude pruning (Frankle & Carbin 2019,
    1803.03635). The last is exactly `target`.

    Raises:
        UserError: `target` is not from 0 to below 1, or `rounds` is below 1.
    """
    if not 0 <= target < 1:
        raise UserError(f"target sparsity: {target} is not allowed; use a fraction from 0 to below 1")
    if rounds < 1:
        raise UserError(f"iterations: {rounds} is not allowed; use 1 or more")
    return [*(1 - (1 - target) ** (index / rounds) for index in range(1, rounds)), target]


def _plain(decimal: Decimal) -> str:
    return format(decimal.normalize(_EXACT).copy_abs(), "f")

"""What the page may ask for: anything else is refused before it reaches the model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

__all__ = ["MOST_SAMPLES", "Code", "Datum", "Draw", "Evaluated"]

MOST_SAMPLES = 10_000
"""Draws that one question may take: some ten seconds, while others wait."""

MOST_NUMBERS = 16_384
"""In one latent or one datum."""

Coordinate = Annotated[FiniteFloat, Field(ge=-1e4, le=1e4)]
Grey = Annotated[FiniteFloat, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Code(_Strict):
    """A latent, z."""

    z: list[Coordinate] = Field(min_length=1, max_length=MOST_NUMBERS)


class Draw(_Strict):
    """A latent from the prior; the same seed draws the same."""

    seed: Seed = 0


class Datum(_Strict):
    """A row of the test split, or an image in grey values, of which 1 is white."""

    row: Annotated[int, Field(ge=0)] | None = None
    pixels: list[Grey] | None = Field(None, min_length=1, max_length=MOST_NUMBERS)
    fit: bool = False
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_of_two(self) -> Datum:
        if (self.row is None) == (self.pixels is None):
            raise ValueError("pass a row of the test split, or pixels, and not both")
        return self


class Evaluated(Datum):
    """A datum, and how its log p(x) is to be estimated, in the words of ``pyrovae evaluate``."""

    num_samples: int = Field(1000, ge=1, le=MOST_SAMPLES)
    proposal: Literal["guide", "auto", "adapted", "refined", "widened", "defensive"] = "guide"

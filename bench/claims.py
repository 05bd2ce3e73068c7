"""What papers claim of rows of a leaderboard, to stand beside what was measured."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from bench.config import parse_size
from bench.ranking import Track

CLAIMS = Path(__file__).with_name("claims.yaml")


class Claim(BaseModel):
    """One number of a paper on the protocol of a track.

    Attributes:
        robust_srocc: under attack.
        paper: its address.
        where: the number stands in it, such as "Table 2".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    norm: str
    eps: Annotated[float, BeforeValidator(parse_size)]
    model: str
    defense: str
    robust_srocc: Annotated[float, Field(ge=-1, le=1)]
    paper: Annotated[str, Field(min_length=1)]
    where: Annotated[str, Field(min_length=1)]


@functools.cache
def all_claims(path: Path = CLAIMS) -> list[Claim]:
    """Every claim that is known; a mistake in the file raises pydantic's error with the field."""
    content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    return TypeAdapter(list[Claim]).validate_python(content)


def claims_of(track: Track) -> dict[tuple[str, str], Claim]:
    """Claims on a track, by (model, defense)."""
    return {
        (claim.model, claim.defense): claim
        for claim in all_claims()
        if (claim.dataset, claim.norm) == (track.dataset, track.norm) and math.isclose(claim.eps, track.eps, rel_tol=1e-6)
    }

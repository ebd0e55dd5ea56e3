"""Scores between a true and a computed label volume, all from one pass that counts which ids meet.

Every score takes the two volumes, or a `ContingencyTable` of them in place of the first, so that several share a pass.
"""

from .counting import ContingencyTable, contingency
from .measures import (
    AdaptedRand,
    MatchingScore,
    SplitsAndMerges,
    VariationOfInformation,
    adapted_rand_error,
    matching_scores,
    splits_and_merges,
    variation_of_information,
)

__all__ = [
    "AdaptedRand",
    "ContingencyTable",
    "MatchingScore",
    "SplitsAndMerges",
    "VariationOfInformation",
    "adapted_rand_error",
    "contingency",
    "matching_scores",
    "splits_and_merges",
    "variation_of_information",
]

"""Scores between a true and a computed label volume. One pass counts which ids meet; all scores follow from that.

Every score takes the two volumes. It also takes a `ContingencyTable` in place of both, so that several scores share one
pass.
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

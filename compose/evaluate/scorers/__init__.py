"""Scores of pictures by other people's models, for checkpoints that no recognizer knows.

A score comes from weights in a folder of the user's, or there is none: nothing is downloaded, and
nothing is scored by random weights.

Example:
    >>> from compose.evaluate.scorers import concept_scores, load_scorer
    >>> scorer = load_scorer("clip=/models/clip-vit-base-patch16")
    >>> concept_scores(scorer, pictures, [["a mochi cat", "a wizzo hat"]] * len(pictures)).least
"""

from compose.evaluate.scorers.concepts import ConceptScores, concept_scores
from compose.evaluate.scorers.loading import load_scorer
from compose.evaluate.scorers.scorer import ClipScorer, ImageScorer, PluginScorer, Scorer

__all__ = [
    "ClipScorer",
    "ConceptScores",
    "ImageScorer",
    "PluginScorer",
    "Scorer",
    "concept_scores",
    "load_scorer",
]

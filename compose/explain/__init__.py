"""What each adapter did to a picture: effects, words, masks and bleed. See docs/explain.md."""

from compose.explain.explainer import Explainer
from compose.explain.explanation import Bleed, Explained, Explanation
from compose.explain.observer import Observer

__all__ = ["Bleed", "Explained", "Explainer", "Explanation", "Observer"]

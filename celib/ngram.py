"""A character model of text: n-grams of every order up to a limit, interpolated."""

from collections.abc import Iterable

import numpy as np

from celib.arguments.errors import integer, refuse

__all__ = ["CharacterModel"]


def __dir__() -> list[str]:
    return sorted(__all__)


class CharacterModel:
    r"""Predict a character from the characters before it, with Witten and Bell's smoothing.

    With :math:`n(h)` occurrences of a context :math:`h`, of which :math:`n(h,c)` continue with
    :math:`c`, and :math:`t(h)` distinct continuations, the model of order :math:`k` mixes what it
    has seen after the last :math:`k` characters with the model of order :math:`k-1`:

    .. math:: q_k(c\mid h) = \frac{n(h,c) + t(h)\,q_{k-1}(c\mid h')}{n(h) + t(h)},

    where :math:`h'` is :math:`h` without its first character. Below order 0 stands the uniform
    distribution on the alphabet (equation ``eq-witten-bell``).

    Args:
        text: the training text.
        order: the longest context, in characters; 0 ignores the context.
        alphabet: the characters that can occur; those of ``text`` if it is not given.

    Raises:
        ValueError: if ``order`` is negative, or ``text`` leaves the alphabet.

    Source: Witten and Bell (1991), doi:10.1109/18.87000, method C.

    Example:
        >>> model = CharacterModel("abracadabra", order=2)
        >>> q = model.distribution("ab")
        >>> max(zip(q.round(3).tolist(), model.alphabet))
        (0.91, 'r')
        >>> float(q.sum().round(12))
        1.0
    """

    def __init__(self, text: str, *, order: int, alphabet: Iterable[str] | None = None) -> None:
        self.order = integer("order", order, lambda k: k >= 0, "at least 0")
        self.alphabet = "".join(sorted(set(text if alphabet is None else alphabet)))
        self._index = {character: i for i, character in enumerate(self.alphabet)}
        self._check(text)
        self._following: dict[str, dict[str, int]] = {}
        for position, character in enumerate(text):
            for k in range(min(order, position) + 1):
                followers = self._following.setdefault(text[position - k : position], {})
                followers[character] = followers.get(character, 0) + 1
        self._occurrences = {h: sum(seen.values()) for h, seen in self._following.items()}

    def _check(self, text: str) -> None:
        for position, character in enumerate(text):
            if character not in self._index:
                refuse("text", (position,), repr(character), "a character of the alphabet")

    def distribution(self, context: str) -> np.ndarray:
        """The distribution of the character after ``context``, over ``alphabet``."""
        q = np.full(len(self.alphabet), 1 / len(self.alphabet))
        for k in range(min(self.order, len(context)) + 1):
            h = context[len(context) - k :]
            seen = self._following.get(h)
            if seen is None:
                break
            q *= len(seen)
            q[[self._index[c] for c in seen]] += list(seen.values())
            q /= self._occurrences[h] + len(seen)
        return q

    def surprisals(self, text: str) -> np.ndarray:
        """The self-information of each character of ``text``, in nats, under every order.

        Returns:
            Array of shape ``(order + 1, len(text))``: row k holds
            :math:`-\\log q_k(c\\mid h)`, where h is what ``text`` itself shows before c. The mean
            of a row is the cross-entropy per character of the text and the model of that order.
        """
        self._check(text)
        q = np.empty((self.order + 1, len(text)))
        for position, character in enumerate(text):
            probability = 1 / len(self.alphabet)
            for k in range(self.order + 1):
                h = text[position - k : position] if k <= position else None
                seen = None if h is None else self._following.get(h)
                if h is not None and seen is not None:
                    numerator = seen.get(character, 0) + len(seen) * probability
                    probability = numerator / (self._occurrences[h] + len(seen))
                q[k, position] = probability
        return -np.log(q)

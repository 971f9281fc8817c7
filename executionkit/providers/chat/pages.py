"""The words of a page: what a proxy or a gateway meant to say to a browser."""

import html
import re
from typing import Final

__all__ = ["is_page", "page_words"]

_READ: Final = 65_536
_BEGINS: Final = re.compile(
    r"\s*(?:\ufeff\s*)?<(?:!doctype|!--|\?xml|html|head|body|title|center|h1|[a-z][\w:.-]*[\s/>])",
    re.IGNORECASE,
)
_UNSEEN: Final = re.compile(
    r"<(style|script|svg|noscript|template|iframe)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)|<\?.*?(?:\?>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_TAG: Final = re.compile(r"</?[a-z!][^<>]*(?:>|\Z)", re.IGNORECASE)


def is_page(text: str) -> bool:
    """Whether a text begins like HTML or XML.

    >>> is_page("<!DOCTYPE html><title>Sign in</title>"), is_page("<3 you"), is_page('{"a": "<b>"}')
    (True, False, False)
    """
    return _BEGINS.match(text) is not None


def page_words(text: str) -> str:
    """Return the words of a page, on one line, without tags, styles and scripts.

    >>> page_words("<html><style>p {color: red}</style><h1>Access&nbsp;denied</h1><p>by   policy</p>")
    'Access denied by policy'
    """
    seen = _TAG.sub(" ", _UNSEEN.sub(" ", text[:_READ]))
    return " ".join(html.unescape(seen).split())

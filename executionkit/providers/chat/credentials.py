"""Hiding credentials of others that a server's message echoes, by their known shapes."""

import re
from typing import Final

__all__ = ["hide_credentials"]

_MASK: Final = "***"
_NO_WORD: Final = r"""(?=[^\s"'<>]*[0-9=+/~%]|[^\s"'<>]+(?-i:[A-Z])|[^\s"'<>]{24})"""
"""What follows is no plain word: it has digits or signs, or capitals inside, or is long."""

_SCHEMES: Final = re.compile(rf"\b(bearer|basic)((?:\s|%20|\+)+){_NO_WORD}[\w.~+/=%-]{{6,}}", re.IGNORECASE)
_NAMES: Final = (
    r"(?:[a-z]{1,20}[-_]){0,3}(?:api|access|secret|auth|private|client|refresh|session|subscription|account|id)"
    r"[-_ ]?(?:key|token|secret)"
    r"|(?:[a-z]{1,20}[-_]){0,3}(?:password|passwd|pwd|secret|credential|authorization)"
)
_SETTINGS: Final = re.compile(
    rf"""\b({_NAMES})(["']?\s*(?:=|:|%3d)\s*["']?)(?!\*){_NO_WORD}[^\s"'&,;<>(){{}}\[\]]{{6,}}""",
    re.IGNORECASE,
)
_PARAMETERS: Final = re.compile(
    rf"""\b({_NAMES}|key|token|sig|signature)=(?!\*|none\b|null\b)[^\s"'&,;<>]{{4,}}""", re.IGNORECASE
)
_TOKEN: Final = re.compile(
    r"""\b(token)(["']?\s*[:=]\s*["']?)(?=[^\s"']*\d)(?=[^\s"']*[a-z])[\w.~+/=-]{16,}""", re.IGNORECASE
)
_PREFIXES: Final = re.compile(
    r"""(?<![A-Za-z0-9])(?:
    gh[opsur]_\w{10,} | github_pat_\w{10,} | glpat-[\w-]{10,}
    | AIza[\w-]{16,} | ya29\.[\w-]{10,} | GOCSPX-[\w-]{10,}
    | xox[a-z]-[\w-]{8,} | xapp-[\w-]{8,} | A(?:KIA|SIA|ROA|IDA)[A-Z0-9]{10,}
    | sk-(?:ant|proj|or|svcacct|admin|lf)-[\w-]{6,} | sk-(?=[\w-]*\d)[\w-]{8,} | sk-[\w-]{20,}
    | (?:hf|gsk|npm|tgp_v1|dop_v1|[srp]k_(?:live|test)|whsec|lin_api|shpat|dckr_pat)_[A-Za-z0-9]{8,}
    | (?:xai|pplx|nvapi|pypi|tvly|csk|rpa)-(?=[\w-]*[\dA-Z])[\w-]{8,}
    | r8_\w{16,} | SG\.[\w-]{10,}(?:\.[\w-]+)? | eyJ[\w-]{8,}(?:\.[\w-]*){0,4}
    )""",
    re.VERBOSE,
)
_USERINFO: Final = re.compile(r"\b([a-z][a-z0-9+.-]{1,20}://)[^\s/?#\"'<>]{1,256}@", re.IGNORECASE)
_PEM: Final = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
)


def hide_credentials(text: str) -> str:
    """Return a message with `***` in place of what has the shape of a credential.

    Known are tokens of the usual prefixes (`ghp_`, `AIza`, `xoxb-`, `sk-`, `AKIA`, `hf_`, ...), JSON web
    tokens, private keys, `Bearer` and `Basic`, settings such as `api_key=...`, and passwords in URLs.

    >>> hide_credentials("Basic dXNlcjpwYXNz was refused by https://bob:pa55@proxy.local/")
    'Basic *** was refused by https://***@proxy.local/'
    >>> hide_credentials("wrong key ghp_abcdefghij0123456789; unknown key: max_completion_tokens")
    'wrong key ***; unknown key: max_completion_tokens'
    """
    text = _PEM.sub(_MASK, text)
    text = _USERINFO.sub(rf"\1{_MASK}@", text)
    text = _PREFIXES.sub(_MASK, text)
    text = _SCHEMES.sub(rf"\1\2{_MASK}", text)
    text = _SETTINGS.sub(rf"\1\2{_MASK}", text)
    text = _TOKEN.sub(rf"\1\2{_MASK}", text)
    return _PARAMETERS.sub(rf"\1={_MASK}", text)

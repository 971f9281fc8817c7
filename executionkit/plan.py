"""A pipeline as data: its fingerprint, and what differs between two of them."""

from typing import Any

from executionkit.core.canonical import canonical, fingerprint_of
from executionkit.core.differences import Change, changes
from executionkit.stage import Stage

__all__ = ["Change", "diff", "fingerprint"]


def fingerprint(stage: Stage[Any, Any]) -> str:
    """Return a text that is the same for all stages that ask the same and answer the same.

    128 bits over every field, the names of `named` and of `each` aside: equal in every process, whatever the
    hash seed, and in every version of Python. What counts:

    - a function by its module and name, not by what it does: after a change there, give it another name;
    - a lambda, or a function within a function, by its code, its defaults and what it holds of its
      surroundings. Code is the same in one version of Python only, so the fingerprint then names that
      version: `ek1-cpython-311:` in place of `ek1:`;
    - a type by its name and JSON Schema;
    - a provider by its class, model, address and what it adds to requests; never by its key;
    - any other object by what it would be pickled as; by its class alone where it refuses.

    Args:
        stage: The stage, most often a whole pipeline.

    >>> from executionkit import complete, consensus
    >>> fingerprint(complete())
    'ek1:...'
    >>> fingerprint(consensus(3).named("vote")) == fingerprint(consensus(3)) != fingerprint(consensus(4))
    True
    """
    return fingerprint_of(stage)


def diff(a: Stage[Any, Any], b: Stage[Any, Any]) -> tuple[Change, ...]:
    """Return what differs between two stages, names included; nothing where they are the same.

    Args:
        a: The stage before.
        b: The stage after.

    >>> from executionkit import complete, consensus
    >>> [str(change) for change in diff(complete() >> consensus(3), complete() >> consensus(4))]
    ['stages.1.sampling.n: 3 -> 4']
    """
    return changes(canonical(a, with_names=True), canonical(b, with_names=True))

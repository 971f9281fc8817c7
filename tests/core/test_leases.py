"""One budget for many workers: what is granted never passes the limit, and little of it is left over."""

from collections import Counter
from decimal import Decimal
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from executionkit.core.leases import Leases
from executionkit.core.usage import NO_USAGE, TokenUsage

CALL = TokenUsage(10, 50, 1, usd=Decimal("0.002"))
"""The worst case of a call."""


def budgets() -> st.SearchStrategy[TokenUsage]:
    """Budgets that limit something."""
    return st.builds(
        TokenUsage,
        st.sampled_from([0, 10_000, 25_000]),
        st.sampled_from([0, 40_000, 99_999]),
        st.integers(1, 900),
        usd=st.sampled_from([None, Decimal("1.7"), Decimal("9.99999")]),
    )


def is_within(usage: TokenUsage, allowed: TokenUsage, limit: TokenUsage) -> bool:
    """Tell whether a usage is allowed, in the fields that are limited."""
    left = allowed - usage
    pairs = [
        (limit.llm_calls, left.llm_calls),
        (limit.input_tokens, left.input_tokens),
        (limit.output_tokens, left.output_tokens),
        (limit.usd, left.usd),
    ]
    return all(rest is not None and rest >= 0 for most, rest in pairs if most)


class Worker:
    """Makes one call after the other, as long as it is granted them."""

    def __init__(self, name: str, limit: TokenUsage) -> None:
        self.name = name
        self._limit = limit
        self.used = self._allowed = TokenUsage(usd=Decimal(0))
        self.is_done = False

    @property
    def _has_room(self) -> bool:
        return is_within(self.used + CALL, self._allowed, self._limit)

    def step(self, leases: Leases, chance: Random) -> None:
        if self._has_room:
            self.used += TokenUsage(chance.randint(1, 10), chance.randint(1, 50), 1, usd=Decimal("0.0011"))
            return
        grant = leases.draw(self.name, self.used, CALL)
        self._allowed = self.used + grant.amount
        self.is_done = grant.is_last and not self._has_room


@settings(deadline=None)
@given(st.integers(0, 2**32), budgets(), st.integers(1, 5))
def test_a_budget_holds_and_is_used_up_whoever_dies(seed: int, limit: TokenUsage, count: int) -> None:
    chance = Random(seed)  # whoever waits gets another turn, which no search for hard cases grants him
    before = TokenUsage(0, 0, chance.randrange(limit.llm_calls))
    leases = Leases(limit, before, count)
    workers = [Worker(f"{number}", limit) for number in range(count)]
    lost: list[Worker] = []
    spent, names = before, Counter[str]()
    deaths = chance.randrange(5)
    while workers or lost:
        at = chance.randrange(len(workers) + len(lost))
        if at >= len(workers):  # somebody has found out what a dead one used
            dead = lost.pop(at - len(workers))
            spent += dead.used
            leases.close(dead.name, dead.used)
            leases.close(dead.name, limit)  # only the first word counts
        elif deaths and chance.random() < 0.1:
            deaths -= 1
            dead = workers[at]
            lost.append(dead)
            names[dead.name] += 1
            workers[at] = Worker(f"{dead.name} again {names[dead.name]}", limit)
        elif workers[at].is_done:
            done = workers.pop(at)
            spent += done.used
            leases.close(done.name, done.used)
        else:
            workers[at].step(leases, chance)
        total = spent + sum_of([worker.used for worker in (*workers, *lost)])
        assert is_within(total, limit, limit)
        assert is_within(spent + leases.left, limit, limit)
    assert not is_within(spent + CALL, limit, limit)  # there is no room for another call


def sum_of(usages: list[TokenUsage]) -> TokenUsage:
    return sum(usages, start=NO_USAGE)


def test_shares_shrink_towards_the_end() -> None:
    leases = Leases(TokenUsage(llm_calls=1000), NO_USAGE, 4)
    one = TokenUsage(llm_calls=1)
    grants: list[int] = []
    while (grant := leases.draw(f"{len(grants)}", NO_USAGE, one).amount.llm_calls) > 0:
        grants.append(grant)
    assert grants == sorted(grants, reverse=True)
    assert (grants[0], grants[-1], sum(grants)) == (125, 1, 1000)


def test_who_asks_gives_back_first_and_who_cannot_be_served_waits_for_others() -> None:
    leases = Leases(TokenUsage(llm_calls=10), NO_USAGE, 1)
    five, none = TokenUsage(llm_calls=5), NO_USAGE
    assert leases.draw("a", none, five).amount.llm_calls == 5
    assert leases.draw("b", none, five).amount.llm_calls == 5
    nothing = leases.draw("c", none, five)
    assert (nothing.amount, nothing.is_last) == (none, False)
    used = TokenUsage(llm_calls=2)
    assert leases.draw("a", used, five, is_busy=True).amount == none  # 3 are back, "b" may give more
    leases.close("b", TokenUsage(llm_calls=5))
    assert not leases.draw("c", none, five).is_last  # "a" has calls in flight, which may turn out to be less
    last = leases.draw("a", used, five)
    assert (last.amount.llm_calls, last.is_last) == (3, True)
    leases.close("a", five)
    end = leases.draw("c", none, five)
    assert (end.amount, end.is_last) == (none, True)


def test_a_worker_that_never_comes_back_keeps_what_it_had() -> None:
    leases = Leases(TokenUsage(llm_calls=10), NO_USAGE, 1)
    leases.draw("dead", NO_USAGE, TokenUsage(llm_calls=8))
    assert leases.left == TokenUsage(llm_calls=2)
    assert leases.is_open("dead")
    leases.close("dead", TokenUsage(llm_calls=3))
    assert leases.left == TokenUsage(llm_calls=7)
    assert not leases.is_open("dead")

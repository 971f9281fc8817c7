"""docs/failures.md says what the tests show."""

from tests.faults.page import PAGE, rewritten


def test_the_table_is_the_catalogue() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == rewritten(page), "run `python -m tests.faults.page` from the root of the checkout"

"""docs/servers.md says what the code knows."""

import re
from pathlib import Path

from executionkit import Dialect
from executionkit.providers.chat.servers import SERVERS, servers_table

PAGE = (Path(__file__).parents[2] / "docs" / "servers.md").read_text(encoding="utf-8")


def test_the_table_is_printed_from_the_code() -> None:
    assert servers_table() in PAGE


def test_the_fields_of_a_dialect_are_complete_and_true() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", PAGE, re.MULTILINE))
    plain = Dialect()
    assert {name: eval(shown) for name, shown in rows.items()} == {
        name: getattr(plain, name) for name in plain.__struct_fields__
    }


def test_each_server_has_a_runnable_block() -> None:
    runnable = "".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    for row in SERVERS:
        if row.name != "Anthropic, compatible endpoint":
            assert any(host.strip(".") in runnable for host in row.hosts), row.name

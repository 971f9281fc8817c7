"""Tools over the Model Context Protocol, both ways; needs the extra `mcp` (the official SDK).

`mcp_tools` turns a server's tools into `Tool`s for as long as an `async with` lasts; `mcp_server` serves
stages as the tools of a server.
"""

try:
    from mcp import StdioServerParameters

    from executionkit.mcp.connection import Command, Served, Server
    from executionkit.mcp.server import mcp_server
    from executionkit.mcp.tools import mcp_tools
except ImportError as _missing:  # pragma: no cover - the extra is installed where this is tested
    message = 'executionkit.mcp needs the official SDK; in the clone, run: pip install ".[mcp]"'
    raise ImportError(message) from _missing

__all__ = ["Command", "Served", "Server", "StdioServerParameters", "mcp_server", "mcp_tools"]

"""An exception of somebody else's, at its worst."""


class AwkwardError(Exception):
    """Neither picklable nor printable, as foreign exceptions are."""

    def __init__(self, one: object, other: object) -> None:
        super().__init__("x")

    def __str__(self) -> str:
        raise RuntimeError("no text")

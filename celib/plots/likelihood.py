"""The figures of the chapter on likelihood."""

__all__: list[str] = []

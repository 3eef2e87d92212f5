"""The figures of the chapter on losses."""

__all__: list[str] = []

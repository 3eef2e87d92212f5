"""The figures of the chapter on numerics."""

__all__: list[str] = []

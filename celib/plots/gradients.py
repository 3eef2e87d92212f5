"""The figures of the chapter on gradients."""

__all__: list[str] = []

"""The figures of the chapter on softmax."""

__all__: list[str] = []

"""The figures of the chapter on calibration."""

__all__: list[str] = []

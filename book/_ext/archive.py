"""The whole site as one archive, which the front page offers: it works from a folder, offline."""

from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

NAME = "cross-entropy-book"


def pack(app, exception):
    if exception or app.builder.format != "html":
        return
    site = Path(app.outdir)
    target = site / f"{NAME}.zip"
    target.unlink(missing_ok=True)
    files = sorted(file for file in site.rglob("*") if file.is_file())
    with ZipFile(target, "w") as archive:
        for file in files:
            # Undated, so that the same site is the same archive.
            entry = ZipInfo(f"{NAME}/{file.relative_to(site).as_posix()}")
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes(), ZIP_DEFLATED)


def setup(app):
    # After every other extension has written, moved or removed its files.
    app.connect("build-finished", pack, priority=999)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

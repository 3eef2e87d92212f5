// A box that scrolls sideways can be reached with the keyboard, as long as it scrolls.
{
  const watch = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  const boxes = ".formula, .bd-article pre, .pst-scrollable-table-container";
  for (const box of document.querySelectorAll(boxes)) watch.observe(box);
}

// Paper is white.
{
  const { dataset } = document.documentElement;
  let theme;
  addEventListener("beforeprint", () => {
    theme = dataset.theme;
    dataset.theme = "light";
  });
  addEventListener("afterprint", () => {
    dataset.theme = theme;
  });
}

// The theme opens a page's source in a new tab: a notebook is wanted as a file.
for (const link of document.querySelectorAll("a.btn-download-source-button")) link.download = "";

// From a folder on disk a page may not read another one, so search results come without excerpts.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

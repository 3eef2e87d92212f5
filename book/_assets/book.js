// A box that scrolls sideways can be reached with the keyboard, as long as it scrolls.
const boxes = document.querySelectorAll(".formula, .bd-article pre, .pst-scrollable-table-container");
const watch = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
boxes.forEach((box) => watch.observe(box));

// The theme opens the page's source in a new tab: a notebook is wanted as a file.
for (const link of document.querySelectorAll("a.btn-download-source-button")) link.download = "";

// From a folder on disk a page may not read another one, so search results come without excerpts.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

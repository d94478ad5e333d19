// Makes tables that are wider than the page focusable, so that the arrow keys scroll them.
function makeTablesFocusable() {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
// Material for MkDocs emits each page that it has loaded.
document$.subscribe(() => requestAnimationFrame(makeTablesFocusable));
addEventListener("resize", makeTablesFocusable);

// What stands in a frame cannot be seen from here; it says how high it is.
addEventListener("message", (e) => {
  const height = e.data && e.data.height;
  if (typeof height !== "number" || !(height >= 0)) return;
  for (const frame of document.querySelectorAll("iframe.fv-frame")) {
    if (frame.contentWindow !== e.source) continue;
    const first = !frame.style.height;
    frame.style.height = Math.min(20000, Math.ceil(height) + 2) + "px";
    // a card just chosen, which may stand below the list or above what is seen of it
    const column = first && frame.closest("#papers-read");
    if (!column) continue;
    const top = column.getBoundingClientRect().top;
    if (top < 0 || top > innerHeight / 2) column.scrollIntoView();
  }
});

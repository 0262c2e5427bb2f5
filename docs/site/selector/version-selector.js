// Fills the selector of versions. A page that another version lacks leads to the first page of that version.
(() => {
  const selector = document.getElementById("gowork-version");
  const { version, page, versions } = selector.dataset;
  for (const known of window.goworkVersions || [{ version, pages: [page] }]) {
    const address = `${versions}${known.version}/${known.pages.includes(page) ? page : "index.html"}`;
    const isOwn = known.version === version;
    selector.append(new Option(known.version, address, isOwn, isOwn));
  }
  selector.addEventListener("change", () => {
    window.location.href = selector.value;
  });
  // A page that the browser's way back shows again has its own version selected again.
  window.addEventListener("pageshow", () => {
    for (const option of selector.options) option.selected = option.defaultSelected;
  });
})();

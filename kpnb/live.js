// What a box of `live` does in the browser: it keeps its keys from the notebook, and names its handles and
// its picture for those who hear the page. Told in nbs/workshop/15_live.ipynb.

// While the focus is inside `root`, keys belong to it and not to the notebook.
// Ctrl, Cmd and Shift+Enter pass, so that saving and running still work.
function keepKeys(root) {
  const ours = e => root.contains(e.target) && !(e.ctrlKey || e.metaKey || (e.shiftKey && e.key === "Enter"));
  // JupyterLab listens first of all, and leaves alone what has this attribute ...
  const before = e => {
    if (root.contains(e.target)) root.toggleAttribute("data-lm-suppress-shortcuts", ours(e));
  };
  // ... while other pages listen after us
  const after = e => {
    if (ours(e)) e.stopPropagation();
  };
  window.addEventListener("keydown", before, true);
  root.addEventListener("keydown", after);
  return () => {
    window.removeEventListener("keydown", before, true);
    root.removeEventListener("keydown", after);
  };
}

function nameParts(root, alt) {
  for (const box of root.querySelectorAll(".widget-inline-hbox")) {
    const label = box.querySelector(".widget-label")?.textContent.trim();
    const handles = box.querySelectorAll(".noUi-handle");
    const readouts = box.querySelectorAll(".widget-readout");
    if (!label) continue;
    handles.forEach((h, i) => {
      h.setAttribute("aria-label", handles.length > 1 ? `${label}, ${["from", "to"][i]}` : label);
    });
    readouts.forEach(r => r.setAttribute("aria-label", `${label}, as a number`));
  }
  for (const picture of root.querySelectorAll("img")) picture.alt = alt;
}

function render({ model, el }) {
  el.style.display = "none";
  let timer;
  let letGo = () => {};
  let observer = new MutationObserver(() => {});
  const start = () => {
    const root = el.closest(".widget-vbox");
    if (!root) { // not yet on the page
      timer = setTimeout(start, 50);
      return;
    }
    const name = () => nameParts(root, model.get("alt"));
    letGo = keepKeys(root);
    observer = new MutationObserver(name);
    observer.observe(root, { childList: true, subtree: true });
    model.on("change:alt", name);
    name();
  };
  start();
  return () => {
    clearTimeout(timer);
    letGo();
    observer.disconnect();
  };
}
export default { render };

// The page of `KeypointCanvas` (kpnb.canvas), run by anywidget as it stands here.
//
// The picture is an SVG whose units are the picture's pixels: its viewBox runs from (0, 0) to (W, H), so a click
// needs no arithmetic of ours. The browser knows the matrix from picture to screen, whatever the zoom and the
// screen's resolution, and we take its inverse.
//
// `s` is what one view knows: `s.model`, whose values are those of Python, and the parts of the page.

// While the focus is inside `root`, keys belong to it and not to the notebook. Ctrl, Cmd and Shift+Enter pass,
// so that saving and running still work. (kpnb.live does the same for the boxes of its controls.)
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

// A new element, the last child of `parent`.
function make(parent, tag, attributes = {}, text = "") {
  const svg = tag === "svg" || parent instanceof SVGElement;
  const e = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  if (text) e.textContent = text;
  return parent.appendChild(e);
}

// --- Small questions: which point is chosen, and where is this event? ---

const clamp = (v, low, high) => Math.min(Math.max(v, low), high);
const round = v => Math.round(v * 1000) / 1000;
// Rows of [name, x, y]; x and y are null where the point is not placed.
const points = s => s.model.get("points");
// The number of the chosen point, -1 if none is.
const chosen = s => points(s).findIndex(p => p[0] === s.model.get("chosen"));
// May the reader move it?
const free = (s, i) => i >= 0 && !s.model.get("fixed").includes(points(s)[i][0]);
const words = p =>
  p[1] === null ? `${p[0]}: not placed` : `${p[0]}: x ${p[1].toFixed(1)}, y ${p[2].toFixed(1)}`;
// The place of an event, in pixels of the picture.
const where = (s, e) => new DOMPoint(e.clientX, e.clientY).matrixTransform(s.svg.getScreenCTM().inverse());

// How much of a picture's pixel one pixel of the screen shows.
const unit = s => {
  const m = s.svg.getScreenCTM();
  return m && m.a ? 1 / m.a : s.model.get("_size")[1] / s.model.get("_width") / s.model.get("zoom");
};

// --- Drawing ---

// Point i, with its ellipse and its name. Markers live in groups that are scaled back to screen pixels, so that
// they keep their size at any zoom. A free point is a ring, a fixed one a cross, each with a white edge so that it
// shows on any ground. The ellipse is in picture units, since it is a statement about the picture.
function mark(s, i) {
  const [name, x, y] = points(s)[i];
  const on = i === chosen(s);
  const colour = s.colours[i % s.colours.length];
  if (x === null) return;
  const shape = new Map(s.model.get("_ellipses")).get(name);
  const sigmas = s.model.get("sigmas");
  if (shape)
    for (const [stroke, width] of [["white", 3.5], [colour, 1.8]])
      make(s.marks, "ellipse", {
        cx: x,
        cy: y,
        rx: sigmas * shape[0],
        ry: sigmas * shape[1],
        transform: `rotate(${shape[2]} ${x} ${y})`,
        fill: "none",
        stroke,
        "stroke-width": width,
        "vector-effect": "non-scaling-stroke",
      });
  const g = make(s.marks, "g", {
    transform: `translate(${x} ${y}) scale(${unit(s)})`,
    class: "kpnb-mark",
    "data-name": name,
  });
  for (const [stroke, width] of [["white", on ? 6 : 4.5], [colour, on ? 3 : 2.2]]) {
    const look = { fill: "none", stroke, "stroke-width": width };
    if (free(s, i)) make(g, "circle", { r: on ? 9 : 7, ...look });
    else make(g, "path", { d: "M-6-6L6 6M6-6L-6 6", ...look });
  }
  make(g, "circle", { r: 1.3, fill: colour });
  if (on || points(s).length <= 8)
    make(g, "text", { x: 12, y: -8, "font-weight": on ? "bold" : "normal" }, name);
}

// The view is the part of the picture that is shown: 1/zoom of each side, around a centre that must not leave the
// picture. Where pixels are large enough, their borders can be drawn.
function draw(s) {
  const [H, W] = s.model.get("_size");
  const zoom = s.model.get("zoom");
  const [w, h] = [W / zoom, H / zoom];
  s.centre = { x: clamp(s.centre.x, w / 2, W - w / 2), y: clamp(s.centre.y, h / 2, H - h / 2) };
  s.svg.setAttribute("viewBox", [s.centre.x - w / 2, s.centre.y - h / 2, w, h].join(" "));
  s.overlay.setAttribute("opacity", s.model.get("opacity"));
  s.grid.setAttribute("visibility", s.model.get("grid") && unit(s) < 1 / 6 ? "visible" : "hidden");
  s.marks.replaceChildren();
  points(s).forEach((p, i) => {
    if (i !== chosen(s)) mark(s, i);
  });
  if (chosen(s) >= 0) mark(s, chosen(s)); // last, so on top
  list(s);
}

// `at` stays where it is on the screen.
function setZoom(s, zoom, at) {
  const old = s.model.get("zoom");
  const now = clamp(zoom, 1, 64);
  for (const k of ["x", "y"]) s.centre[k] = at[k] + ((s.centre[k] - at[k]) * old) / now;
  s.model.set("zoom", now);
  s.model.save_changes();
  draw(s);
}

// --- The list below the picture ---

// A button for each point, also for those that are not placed. Tab walks through them, and each says aloud what it
// is.
function list(s) {
  const names = JSON.stringify(points(s).map(p => p[0]));
  if (names !== s.names) newButtons(s); // only then, so that the focus stays where it is
  s.names = names;
  [...s.list.children].forEach((button, i) => {
    button.lastChild.textContent = words(points(s)[i]) + (free(s, i) ? "" : " (fixed)");
    button.setAttribute("aria-pressed", i === chosen(s));
  });
}

function newButtons(s) {
  s.list.replaceChildren();
  points(s).forEach((p, i) => {
    const button = make(s.list, "button", { type: "button" });
    make(button, "span", { "aria-hidden": "true", style: `background: ${s.colours[i % s.colours.length]}` });
    make(button, "b");
    button.onclick = button.onfocus = () => choose(s, i);
  });
}

// Shown, and read aloud.
const say = (s, text) => {
  s.status.textContent = text;
};

// --- What can happen to a point: it is chosen, put somewhere, added, or removed ---
// Every change goes to Python, and is announced.

function choose(s, i) {
  s.model.set("chosen", points(s)[i][0]);
  s.model.save_changes();
  say(s, words(points(s)[i]));
  show(s, i);
}

function put(s, i, x, y, send = true) {
  const [H, W] = s.model.get("_size");
  const moved = points(s).map(p => [...p]);
  moved[i] = [moved[i][0], round(clamp(x, 0, W)), round(clamp(y, 0, H))];
  s.model.set("points", moved);
  if (send) s.model.save_changes();
  say(s, words(moved[i]));
}

// Move the view to a point that is outside of it.
function show(s, i) {
  const [, x, y] = points(s)[i];
  const [left, top, w, h] = s.svg.getAttribute("viewBox").split(" ").map(Number);
  if (x === null || (x >= left && x <= left + w && y >= top && y <= top + h)) return;
  s.centre = { x, y };
  draw(s);
}

// The next point, round and round.
function next(s, step) {
  const n = points(s).length;
  if (n) choose(s, chosen(s) < 0 ? 0 : (chosen(s) + step + n) % n);
}

function add(s, x = null, y = null) {
  const names = points(s).map(p => p[0]);
  let k = names.length;
  while (names.includes(`point ${k}`)) k++;
  s.model.set({ points: [...points(s), [`point ${k}`, x, y]], chosen: `point ${k}` });
  s.model.save_changes();
  say(
    s,
    x === null
      ? `point ${k} added: click where it belongs, or press Enter for the middle`
      : "added " + words([`point ${k}`, x, y]),
  );
}

function remove(s) {
  const i = chosen(s);
  const allow = s.model.get("allow");
  if (i < 0 || allow === "move" || !free(s, i)) return say(s, "this point cannot be removed");
  const name = points(s)[i][0];
  const left = points(s).map(p => [...p]);
  if (allow === "add") left.splice(i, 1);
  else left[i] = [name, null, null];
  s.model.set({ points: left, chosen: left.length ? left[Math.min(i, left.length - 1)][0] : "" });
  s.model.save_changes();
  say(s, `${name} removed`);
}

// --- The mouse, a pen, a finger ---
// A press near a free point can become a drag. A press elsewhere can become a drag of the view. Without movement it
// is a click. On another point it chooses that one (unless the chosen point still waits for its place); elsewhere it
// puts the chosen point there; the next point that is not placed yet is then chosen, so that a face is labelled by
// clicking from part to part.

function down(s, e) {
  if (e.button) return;
  const at = where(s, e);
  const near = points(s)
    .map((p, i) => [Math.hypot(p[1] - at.x, p[2] - at.y) / unit(s), i])
    .filter(([distance, i]) => points(s)[i][1] !== null && free(s, i) && distance < 12)
    .sort((a, b) => a[0] - b[0]);
  const hit = near.length ? near[0][1] : -1;
  s.press = {
    x: e.clientX,
    y: e.clientY,
    at,
    hit,
    from: points(s)[hit],
    centre: { ...s.centre },
    dragging: false,
  };
  s.svg.focus({ preventScroll: true });
  s.svg.setPointerCapture(e.pointerId);
}

function move(s, e) {
  const p = s.press;
  if (!p || !(p.dragging ||= Math.hypot(e.clientX - p.x, e.clientY - p.y) > 3)) return;
  const [dx, dy] = [(e.clientX - p.x) * unit(s), (e.clientY - p.y) * unit(s)];
  if (p.hit >= 0) {
    choose(s, p.hit);
    put(s, p.hit, p.from[1] + dx, p.from[2] + dy, s.model.get("continuous_update"));
  } else {
    s.centre = { x: p.centre.x - dx, y: p.centre.y - dy };
    draw(s);
  }
}

function up(s, e) {
  const p = s.press;
  s.press = null;
  if (p?.dragging) s.model.save_changes();
  else if (p) click(s, e, p);
}

function click(s, e, { at, hit }) {
  const i = chosen(s);
  const unplaced = () => points(s).findIndex((p, j) => p[1] === null && free(s, j));
  if (e.shiftKey && s.model.get("allow") === "add") return add(s, round(at.x), round(at.y));
  if (hit >= 0 && hit !== i && !(i >= 0 && points(s)[i][1] === null)) return choose(s, hit);
  if (i < 0 || !free(s, i)) return say(s, i < 0 ? "no point is chosen" : "this point is fixed");
  const first = points(s)[i][1] === null;
  put(s, i, at.x, at.y);
  if (first && unplaced() >= 0) choose(s, unplaced());
}

// --- The keyboard ---
// It can do nearly everything that the mouse can; the view follows the chosen point.

const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function key(s, e) {
  const i = chosen(s);
  const p = points(s)[i];
  const way = WAYS[e.key];
  const step = e.altKey ? 0.1 : e.shiftKey ? 10 : 1;
  const onButton = e.target.closest("button");
  const zoom = s.model.get("zoom");
  const at = p && p[1] !== null ? { x: p[1], y: p[2] } : s.centre;
  if (e.ctrlKey || e.metaKey) return;
  if (way && !free(s, i)) say(s, i < 0 ? "no point is chosen" : "this point is fixed");
  else if (way && p[1] === null) put(s, i, s.centre.x, s.centre.y);
  else if (way) {
    put(s, i, p[1] + step * way[0], p[2] + step * way[1]);
    show(s, i);
  } else if (e.key === "Enter" && !onButton && free(s, i) && p[1] === null) put(s, i, s.centre.x, s.centre.y);
  else if (e.key === "n" || e.key === "p") next(s, e.key === "n" ? 1 : -1);
  else if (e.key === "a" && s.model.get("allow") === "add") add(s);
  else if (e.key === "Delete" || e.key === "Backspace") remove(s);
  else if (e.key === "+" || e.key === "=") setZoom(s, zoom * 1.5, at);
  else if (e.key === "-") setZoom(s, zoom / 1.5, at);
  else if (e.key === "0") setZoom(s, 1, at);
  else return; // not ours: Tab moves on, Enter presses a button
  e.preventDefault();
}

// --- The frame around it ---
// Buttons, the picture with its layers, the list, a line that says what happened, and a line that says what one can
// do.

function build(s, el) {
  const allow = s.model.get("allow");
  const name = s.model.get("label");
  s.root = make(el, "div", { class: "kpnb-canvas", role: "group", "aria-label": name });
  s.tools = make(s.root, "div", { class: "kpnb-tools", role: "toolbar", "aria-label": "tools" });
  s.svg = make(s.root, "svg", {
    tabindex: 0,
    role: "application",
    "aria-roledescription": "picture with points",
    "aria-label": name,
  });
  for (const part of ["picture", "overlay"]) s[part] = make(s.svg, "image", { preserveAspectRatio: "none" });
  s.grid = make(s.svg, "path", {
    stroke: "white",
    "stroke-opacity": 0.55,
    "vector-effect": "non-scaling-stroke",
  });
  s.marks = make(s.svg, "g");
  s.list = make(s.root, "div", { class: "kpnb-list", role: "group", "aria-label": "points" });
  s.status = make(s.root, "div", { class: "kpnb-status", role: "status", "aria-live": "polite" });
  const ways = {
    move: [],
    clear: ["Delete takes the point away"],
    add: ["a adds a point, Shift+click adds one there, Delete removes one"],
  };
  const help = [
    "Drag a point, or click to put the chosen one there. Keys: arrows 1 px (Shift 10, Alt 0.1)",
    "n and p: next and previous point",
    "+ − 0: zoom",
    ...ways[allow],
  ];
  const id = `kpnb-${Math.random().toString(36).slice(2)}`;
  s.help = make(s.root, "div", { class: "kpnb-help", id }, help.join("; ") + ".");
  s.svg.setAttribute("aria-describedby", s.help.id);
}

function tools(s) {
  const button = (text, label, action) => {
    make(s.tools, "button", { type: "button", "aria-label": label, title: label }, text).onclick = action;
  };
  button("−", "zoom out", () => setZoom(s, s.model.get("zoom") / 1.5, s.centre));
  button("+", "zoom in", () => setZoom(s, s.model.get("zoom") * 1.5, s.centre));
  button("whole", "show the whole picture", () => setZoom(s, 1, s.centre));
  if (s.model.get("allow") === "add")
    button("add", "add a point", () => {
      add(s);
      s.svg.focus();
    });
  if (s.model.get("allow") !== "move") button("remove", "remove the chosen point", () => remove(s));
}

// The bytes of a PNG into one of the two pictures.
function load(s, part) {
  const bytes = s.model.get("_" + part);
  if (s.urls[part]) URL.revokeObjectURL(s.urls[part]);
  s.urls[part] = bytes?.byteLength ? URL.createObjectURL(new Blob([bytes], { type: "image/png" })) : "";
  s[part].setAttribute("href", s.urls[part]);
  s[part].setAttribute("visibility", s.urls[part] ? "visible" : "hidden");
}

// Everything that depends on the picture's size.
function fit(s) {
  const [H, W] = s.model.get("_size");
  const lines = n => [...Array(n + 1).keys()];
  s.svg.style.width = s.model.get("_width") + "px";
  // the texts are not wider than the picture
  s.root.style.width = Math.max(300, s.model.get("_width") + 8) + "px";
  s.svg.style.aspectRatio = `${W} / ${H}`;
  for (const part of ["picture", "overlay"]) {
    s[part].setAttribute("width", W);
    s[part].setAttribute("height", H);
  }
  const upright = lines(W).map(x => `M${x} 0V${H}`).join("");
  const level = lines(H).map(y => `M0 ${y}H${W}`).join("");
  s.grid.setAttribute("d", upright + level);
  s.centre = { x: W / 2, y: H / 2 };
}

function listen(s) {
  s.svg.onpointerdown = e => down(s, e);
  s.svg.onpointermove = e => move(s, e);
  s.svg.onpointerup = e => up(s, e);
  s.svg.onpointercancel = () => {
    s.press = null;
  };
  const wheel = e => {
    if (e.ctrlKey) {
      e.preventDefault();
      setZoom(s, s.model.get("zoom") * Math.exp(-e.deltaY / 300), where(s, e));
    }
  };
  s.svg.addEventListener("wheel", wheel, { passive: false });
  s.root.onkeydown = e => key(s, e);
}

function render({ model, el }) {
  const s = { model, colours: model.get("_colours"), urls: {}, names: null };
  build(s, el);
  tools(s);
  fit(s);
  listen(s);
  const letGo = keepKeys(s.root);
  const again = () => draw(s);
  for (const part of ["picture", "overlay"]) {
    load(s, part);
    model.on(`change:_${part}`, () => load(s, part));
  }
  model.on("change:_size change:_width", () => {
    fit(s);
    draw(s);
  });
  const drawn = ["points", "chosen", "zoom", "opacity", "sigmas", "_ellipses", "fixed", "grid"];
  model.on(drawn.map(name => `change:${name}`).join(" "), again);
  const resized = new ResizeObserver(again);
  resized.observe(s.svg);
  draw(s);
  return () => {
    letGo();
    resized.disconnect();
    model.off(null, again);
    Object.values(s.urls).forEach(URL.revokeObjectURL);
  };
}

export default { render };

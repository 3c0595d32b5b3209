// Live figures: what a reader chooses is drawn by Vega from numbers that stand in the page.
//
// The rule: rows that the choices keep are parted by the facets, and each part is drawn by the
// chart of its kind. Nothing is computed here; `live.py` says what the data are. A figure's still
// form stays in the page for paper and for readers without scripts.
"use strict";

window.peaksweep = (() => {
  const root = document.documentElement;
  const NONE = "–";

  /** Build an element; a child that is no element is text, never markup. */
  function element(tag, attributes = {}, ...children) {
    const made = tag === "svg" || tag === "path" || tag === "line"
      ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  /** The data of this name, as `live.payload` wrote them. */
  function data(name) {
    return JSON.parse(document.getElementById(`data-${name}`).textContent);
  }

  /** Columns as rows. */
  function rowsOf(columns) {
    const names = Object.keys(columns);
    const read = names.map((name) => {
      const column = columns[name];
      return Array.isArray(column) ? (i) => column[i] : (i) => column.words[column.at[i]];
    });
    const first = columns[names[0]];
    const many = names.length ? (Array.isArray(first) ? first : first.at).length : 0;
    return Array.from({ length: many }, (_, i) =>
      Object.fromEntries(names.map((name, j) => [name, read[j](i)])));
  }

  function said(value, share) {
    if (value === null || value === undefined) return NONE;
    if (typeof value !== "number") return String(value);
    const scaled = share ? 100 * value : value;
    const text = String(Number(scaled.toPrecision(4))).replace("-", "−");
    return share ? `${text} %` : text;
  }

  // Light and dark. -----------------------------------------------------------------------------

  const drawn = new Set();
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  /** The page's colours as they are now; a variable of the style sheet, resolved. */
  function colour(variable) {
    const probe = element("span", { style: `color: var(${variable})` });
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  }

  function theme() {
    return { ink: colour("--ink"), soft: colour("--soft"), line: colour("--line"), paper: colour("--paper") };
  }

  function isDark() {
    return root.style.colorScheme ? root.style.colorScheme === "dark" : dark.matches;
  }

  /** Colours of marks that cannot be seen on a dark page, and what stands for them there. */
  const LIGHTER = {
    "#000000": "#f2f2f2", "#222222": "#e4e4e4", "#332288": "#9a8cff", "#882255": "#e07bb0", "#0072b2": "#4aa8e0",
    "#767676": "#a8a8a8", "#555555": "#b0b0b0", "#8c564b": "#c79287", "#aa4499": "#d783c8", "#6b8e23": "#9cc255",
  };

  function shown(hex, onDark) {
    return onDark ? LIGHTER[hex.toLowerCase()] ?? hex : hex;
  }

  function themed(spec, colours, onDark) {
    const text = onDark ? JSON.stringify(spec).replace(/#[0-9a-fA-F]{6}\b/g, (hex) => shown(hex, true)) : JSON.stringify(spec);
    const made = JSON.parse(text);
    const words = { labelColor: colours.ink, titleColor: colours.ink };
    made.background = null;
    made.config = {
      ...made.config,
      axis: {
        ...words, domainColor: colours.ink, tickColor: colours.ink, gridColor: colours.line, labelFontSize: 12,
        titleFontSize: 12.5, titleFontWeight: "normal", labelPadding: 4, titlePadding: 8, labelFont: FONT, titleFont: FONT,
      },
      legend: { ...made.config?.legend, ...words, labelFontSize: 12, labelFont: FONT, titleFont: FONT },
      title: { color: colours.ink, font: FONT, fontSize: 13 },
      text: { fill: colours.ink, font: FONT },
    };
    return made;
  }

  const FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif";
  const LIGHT = { ink: "#222222", soft: "#555555", line: "#e8e8e8", paper: "#ffffff" };

  function redraw() {
    for (const draw of drawn) draw();
  }
  dark.addEventListener("change", redraw);

  /** The button that turns the page's light; without it the page is as the reader's system is. */
  function lamp() {
    const name = () => (isDark() ? "Light page" : "Dark page");
    const button = element("button", { type: "button", class: "lamp" }, name());
    button.addEventListener("click", () => {
      root.style.colorScheme = isDark() ? "light" : "dark";
      button.textContent = name();
      redraw();
      for (const swatch of document.querySelectorAll("[data-colour]")) {
        swatch.setAttribute("stroke", shown(swatch.dataset.colour, isDark()));
        if (swatch.dataset.filled) swatch.setAttribute("fill", shown(swatch.dataset.colour, isDark()));
      }
    });
    dark.addEventListener("change", () => { button.textContent = name(); });
    return button;
  }

  // A chart. -------------------------------------------------------------------------------------

  const tip = element("div", { class: "tip", hidden: true, "aria-hidden": "true" });

  function tell(event, lines) {
    tip.hidden = lines.length === 0;
    if (tip.hidden) return;
    tip.replaceChildren(...lines.map((line) => element("div", {}, line)));
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8))}px`;
    tip.style.top = `${event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18}px`;
  }

  /** Whether a scale is an axis that can be zoomed. */
  function continuous(scale) {
    return ["x", "y"].includes(scale.name) && ["linear", "log", "symlog", "pow", "sqrt"].includes(scale.type);
  }

  function zooms(spec) {
    return (spec.scales ?? []).some(continuous);
  }

  /** Let a chart be zoomed: its continuous x and y scales take a range from a signal each. */
  function zoomable(spec, zoom) {
    const found = {};
    for (const scale of (spec.scales ?? []).filter(continuous)) {
      scale.domainRaw = { signal: `zoom_${scale.name}` };
      found[scale.name] = true;
    }
    spec.signals = [...(spec.signals ?? []), ...Object.keys(found).map((axis) => ({ name: `zoom_${axis}`, value: zoom[axis] ?? null }))];
    const zoomed = Object.keys(found).map((axis) => `zoom_${axis} !== null`).join(" || ");
    const clip = (marks) => {
      for (const mark of marks ?? []) {
        if (mark.type !== "text" && !mark.clip) mark.clip = { signal: zoomed };
        clip(mark.marks);
      }
    };
    if (zoomed) clip(spec.marks);
    return found;
  }

  /** Let points, bars and tiles be told when the pointer is on them. */
  function telling(marks) {
    for (const mark of marks ?? []) {
      if (["symbol", "rect", "rule", "arc"].includes(mark.type) && mark.from?.data && mark.encode?.update) {
        mark.encode.update.tooltip = { signal: "datum" };
      }
      telling(mark.marks);
    }
  }

  /** Draw rows into a holder; the promise is of Vega's view. Expressions are interpreted, never evaluated as code. */
  async function view(holder, spec, rows, { width, height, colours, onDark, title, say, zoom = {} }) {
    const made = themed(spec, colours, onDark);
    if (title) made.title = { text: title, anchor: "start" };
    if (width) made.width = width;
    if (height) made.height = height;
    made.data.find((source) => source.name === "rows").values = rows.map((row) => ({ ...row }));
    const zooms = zoomable(made, zoom);
    telling(made.marks);
    const tooltip = (_, event, item, value) => tell(event, say && value ? say(item.datum) : []);
    const shown = await vegaEmbed(holder, made, { mode: "vega", renderer: "svg", ast: true, actions: false, defaultStyle: false, logLevel: 1, tooltip });
    // The holder says what the drawing shows; the numbers are in the table.
    holder.querySelector("svg")?.setAttribute("aria-hidden", "true");
    return { view: shown.view, zooms, finalize: () => shown.finalize() };
  }

  /** What is said of a point: its own words, else its columns. */
  function told(columns, shares) {
    return (datum) => {
      if (datum.told) return String(datum.told).split("\n");
      const found = columns.filter(([name]) => datum[name] !== null && datum[name] !== undefined);
      return found.map(([name, head]) => `${head}: ${said(datum[name], shares.includes(name))}`);
    };
  }

  /**
   * Draw rows into a holder by a compiled chart; it is drawn again when the page's light turns.
   * What is returned stands for the drawing: `ready` is the promise of its first appearance.
   */
  function draw(holder, spec, rows, { width, height, describe, label } = {}) {
    const say = describe ?? ((datum) => (datum.told ? String(datum.told).split("\n") : []));
    let turn = 0;
    const handle = { spec, rows, height, shown: null, zoom: {} };

    handle.again = async () => {
      const mine = ++turn;
      const room = width ?? Math.max(160, holder.clientWidth - 78);
      const inner = element("div");
      const made = await view(inner, spec, rows, { width: room, height, colours: theme(), onDark: isDark(), say, zoom: handle.zoom });
      if (mine !== turn) return made.finalize();
      handle.shown?.finalize();
      handle.shown = made;
      holder.replaceChildren(inner);
    };
    handle.range = (axis, pair) => {
      if (!handle.shown?.zooms[axis]) return;
      handle.zoom[axis] = pair;
      handle.shown.view.signal(`zoom_${axis}`, pair).run();
    };
    handle.scaled = (factor) => {
      for (const axis of Object.keys(handle.shown?.zooms ?? {})) {
        const ends = handle.shown.view.scale(axis).domain();
        const [low, high] = [Number(ends[0]), Number(ends[ends.length - 1])];
        handle.range(axis, [(low + high) / 2 - ((high - low) / 2) * factor, (low + high) / 2 + ((high - low) / 2) * factor]);
      }
    };
    handle.reset = () => {
      for (const axis of Object.keys(handle.shown?.zooms ?? {})) handle.range(axis, null);
    };
    handle.finalize = () => {
      turn += 1;
      drawn.delete(handle.again);
      handle.shown?.finalize();
    };
    if (label) holder.setAttribute("aria-label", label);
    holder.setAttribute("role", "img");
    drawn.add(handle.again);
    dragged(holder, handle);
    handle.ready = handle.again();
    return handle;
  }

  /** A rectangle that is drawn with the mouse is zoomed into; a double click goes back. */
  function dragged(holder, handle) {
    let from = null;
    let box = null;
    const place = (event) => {
      const frame = holder.getBoundingClientRect();
      return [event.clientX - frame.left, event.clientY - frame.top];
    };
    holder.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch" || !Object.keys(handle.shown?.zooms ?? {}).length) return;
      from = place(event);
      event.preventDefault();
      holder.setPointerCapture(event.pointerId);
    });
    holder.addEventListener("pointermove", (event) => {
      if (!from) return;
      const to = place(event);
      if (!box && Math.hypot(to[0] - from[0], to[1] - from[1]) < 6) return;
      if (!box) holder.append((box = element("div", { class: "brush" })));
      for (const [i, [side, extent]] of [["left", "width"], ["top", "height"]].entries()) {
        box.style[side] = `${Math.min(from[i], to[i])}px`;
        box.style[extent] = `${Math.abs(to[i] - from[i])}px`;
      }
    });
    const end = (event) => {
      const began = from;
      from = null;
      if (!box) return;
      box.remove();
      box = null;
      const to = place(event);
      const origin = handle.shown.view.origin();
      for (const [i, axis] of ["x", "y"].entries()) {
        if (!handle.shown.zooms[axis] || Math.abs(to[i] - began[i]) < 6) continue;
        const ends = [began[i], to[i]].map((pixel) => Number(handle.shown.view.scale(axis).invert(pixel - origin[i])));
        handle.range(axis, ends.sort((a, b) => a - b));
      }
    };
    holder.addEventListener("pointerup", end);
    holder.addEventListener("pointercancel", end);
    holder.addEventListener("dblclick", () => handle.reset());
  }

  /** Let the reader keep a drawing, in light colours, under a title. */
  async function save(handle, filename, title) {
    const { spec, rows, height = 280, zoom } = handle;
    const paper = await view(element("div"), spec, rows, { width: 460, height, colours: LIGHT, onDark: false, title, zoom });
    const text = await paper.view.background("white").toSVG();
    paper.finalize();
    const url = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
    element("a", { href: url, download: filename }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  // A figure. ------------------------------------------------------------------------------------

  const SHAPES = {
    circle: "M4,0A4,4,0,1,1,-4,0A4,4,0,1,1,4,0Z", square: "M-3.6,-3.6H3.6V3.6H-3.6Z", diamond: "M0,-5L4.4,0L0,5L-4.4,0Z",
    cross: "M-4.5,-1.5H-1.5V-4.5H1.5V-1.5H4.5V1.5H1.5V4.5H-1.5V1.5H-4.5Z", "triangle-up": "M0,-4.6L4.4,3.6H-4.4Z",
    "triangle-down": "M0,4.6L4.4,-3.6H-4.4Z", "triangle-right": "M4.6,0L-3.6,4.4V-4.4Z", "triangle-left": "M-4.6,0L3.6,4.4V-4.4Z",
  };

  function swatch(look) {
    const hue = shown(look.colour, isDark());
    return element("svg", { viewBox: "-17 -7 34 14", width: 34, height: 14, "aria-hidden": "true", focusable: "false" },
      element("line", { x1: -16, x2: 16, y1: 0, y2: 0, stroke: hue, "stroke-width": 2, "stroke-dasharray": look.dash[1] ? look.dash.join(" ") : null, "data-colour": look.colour }),
      element("path", { d: SHAPES[look.shape] ?? SHAPES.circle, fill: hue, stroke: hue, "stroke-width": 0.5, "data-colour": look.colour, "data-filled": "yes" }));
  }

  function controls(name, choices, changed) {
    const state = {};
    const bar = element("div", { class: "tools" });
    for (const choice of choices) {
      if (choice.values.length < 2 && !choice.looks[choice.values[0]]) {
        state[choice.field] = null;
        continue;
      }
      if (choice.several) {
        state[choice.field] = new Set(choice.values);
        const boxes = choice.values.map((value) => {
          const box = element("input", { type: "checkbox", checked: true });
          box.addEventListener("change", () => {
            if (box.checked) state[choice.field].add(value);
            else state[choice.field].delete(value);
            changed();
          });
          const look = choice.looks[value];
          return element("label", {}, box, ...(look ? [swatch(look)] : []), value);
        });
        bar.append(element("fieldset", {}, element("legend", {}, choice.label), ...boxes));
      } else {
        const entries = [...(choice.every ? [["", choice.every]] : []), ...choice.values.map((v) => [v, v])];
        const first = choice.first || entries[0][0];
        const list = element("select", {}, ...entries.map(([value, text]) => element("option", { value, selected: value === first }, text)));
        state[choice.field] = first || null;
        list.addEventListener("change", () => { state[choice.field] = list.value || null; changed(); });
        list.id = `choose-${name}-${choice.field}`;
        bar.append(element("span", { class: "pick" }, element("label", { for: list.id }, choice.label), " ", list));
      }
    }
    return { bar, keeps: (row) => choices.every(({ field }) => {
      const wanted = state[field];
      return wanted === null || wanted === undefined || (wanted instanceof Set ? wanted.has(String(row[field])) : String(row[field]) === wanted);
    }) };
  }

  function parted(rows, facets) {
    const parts = new Map();
    for (const row of rows) {
      const values = facets.map((name) => String(row[name]));
      const key = values.join("\u0000");
      if (!parts.has(key)) parts.set(key, { values, rows: [] });
      parts.get(key).rows.push(row);
    }
    return [...parts.values()];
  }

  const PARTS = 24;
  const LINES = 400;

  function live(figure) {
    const name = figure.id.replace(/^figure-/, "");
    const found = data(name);
    const rows = rowsOf(found.rows);
    const say = told(found.columns, found.shares);
    const caption = figure.querySelector("figcaption");
    const numbered = caption.querySelector("b")?.textContent.trim() ?? name;
    const charts = element("div", { class: "charts" });
    const status = element("p", { class: "status", role: "status" });
    const table = element("div", { class: "table", tabindex: 0, role: "region", "aria-label": `${numbered} The numbers that are drawn` });
    const numbers = element("details", { class: "numbers" }, element("summary", {}, "The numbers that are drawn"), table);
    let handles = [];

    const update = () => {
      for (const handle of handles) handle.finalize();
      const kept = rows.filter(picked.keeps);
      const all = parted(kept, found.facets);
      const parts = all.slice(0, PARTS);
      charts.replaceChildren();
      const places = parts.map((part) => {
        const title = part.values.join(" · ");
        const plot = element("div", { class: "plot" });
        const notes = part.values.map((value) => found.notes[value]).filter(Boolean);
        const keep = element("button", { type: "button", class: "save", "aria-label": `Download ${title} as SVG` }, "SVG");
        charts.append(element("section", { class: "chart", "aria-label": title },
          element("div", { class: "head" }, element("strong", {}, title), keep),
          ...notes.map((note) => element("p", { class: "note" }, note)), plot));
        return { part, title, plot, keep };
      });
      // Only now every chart has the width that it will have.
      handles = places.map(({ part, title, plot, keep }) => {
        const handle = draw(plot, found.charts[found.by ? part.rows[0][found.by] : ""], part.rows,
          { height: found.height, describe: say, label: `Chart of ${title}; the numbers are in the table below.` });
        const file = `${name}-${title}`.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
        keep.addEventListener("click", () => save(handle, `${file}.svg`, title));
        return handle;
      });
      const more = all.length > parts.length ? `; ${all.length - parts.length} more can be chosen` : "";
      status.textContent = parts.length
        ? `${parts.length} ${parts.length === 1 ? "chart" : "charts"}, ${kept.length} points${more}.`
        : "Nothing is there for this choice.";
      if (numbers.open) list();
    };
    const list = () => {
      const kept = rows.filter(picked.keeps);
      const heads = [...found.facets.filter((f) => !found.columns.some(([n]) => n === f)).map((f) => [f, f]), ...found.columns];
      const body = kept.slice(0, LINES).map((row) => element("tr", {}, ...heads.map(([n]) => element("td", {}, said(row[n], found.shares.includes(n))))));
      const rest = kept.length > LINES ? [element("p", {}, `The first ${LINES} of ${kept.length}; all are in the run's tables.`)] : [];
      table.replaceChildren(element("table", {}, element("thead", {}, element("tr", {}, ...heads.map(([, h]) => element("th", { scope: "col" }, h)))), element("tbody", {}, ...body)), ...rest);
    };

    const picked = controls(name, found.choices, update);
    const every = (act) => () => handles.forEach(act);
    if (Object.values(found.charts).some(zooms)) picked.bar.insertBefore(element("div", { class: "zoom", role: "group", "aria-label": "Zoom" },
      element("button", { type: "button", "aria-label": "Zoom in", onclick: every((h) => h.scaled(0.6)) }, "+"),
      element("button", { type: "button", "aria-label": "Zoom out", onclick: every((h) => h.scaled(1 / 0.6)) }, "−"),
      element("button", { type: "button", onclick: every((h) => h.reset()) }, "Reset")), picked.bar.querySelector("fieldset"));
    numbers.addEventListener("toggle", () => { if (numbers.open) list(); });
    figure.prepend(picked.bar, charts, status);
    caption.before(numbers);
    figure.classList.add("on");
    update();
  }

  /** Act when the page has had another width for a moment. */
  function resized(act) {
    let width = innerWidth;
    let later = 0;
    addEventListener("resize", () => {
      if (innerWidth === width) return;
      width = innerWidth;
      clearTimeout(later);
      later = setTimeout(act, 120);
    });
  }

  function start() {
    document.body.append(tip);
    document.querySelector("header")?.prepend(lamp());
    for (const figure of document.querySelectorAll("figure.live")) live(figure);
    resized(redraw);
  }

  document.addEventListener("DOMContentLoaded", start);
  return { data, draw, element, resized, save };
})();
